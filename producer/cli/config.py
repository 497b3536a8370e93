"""`zendesk-producer config`: which settings are in force, and which there are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from producer.settings import Settings

app = typer.Typer(help="Show the settings in force, or the schema of all.", no_args_is_help=True)


@app.command()
def show(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON: by name, the value and its origin.")] = False,
) -> None:
    """Print every setting with its value (secrets masked) and where the value came from."""
    import json

    settings: Settings = context.obj()
    rows = list(_rows(settings))
    if as_json:
        typer.echo(json.dumps({name: {"value": value, "origin": origin} for name, value, origin in rows}, indent=2))
        return
    shown = [(name, _in_words(name, value), origin) for name, value, origin in rows]
    name_width, value_width = (max(len(row[column]) for row in shown) for column in (0, 1))
    for name, text, origin in shown:
        typer.echo(f"{name:{name_width}}  {text:{value_width}}  {origin}")


def _rows(settings: Settings) -> list[tuple[str, Any, str]]:
    # JSON mode masks each SecretStr; `redact` does the same to the password that a proxy's URL may hold.
    return [
        (
            name := f"{group}.{setting}",
            settings.redact(value) if isinstance(value, str) else value,
            settings.origin(name),
        )
        for group, members in settings.model_dump(mode="json", by_alias=True).items()
        for setting, value in members.items()
    ]


def _in_words(name: str, value: Any) -> str:
    from producer.dates import position

    match value:
        case None:
            return "-"
        case bool():
            return str(value).lower()
        case list():
            return ",".join(value)
        case int() if name == "zendesk.start_time":
            return position(value)
        case float():
            return f"{value:g}"
        case _:
            return str(value)


@app.command()
def schema() -> None:
    """Print the JSON Schema of the YAML file, for editors."""
    import json

    from producer.settings import Settings

    document = Settings.model_json_schema()
    # What the program requires may stand elsewhere: in the environment, or in a secret file.
    for model in (document, *document["$defs"].values()):
        model.pop("required", None)
    typer.echo(json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", **document}, indent=2))
