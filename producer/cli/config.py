"""`zendesk-producer config`: which settings are in force, and which there are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from producer.settings import Settings

    Rows = Mapping[str, tuple[Any, str]]
    """By the name of a setting, its value and its origin."""

app = typer.Typer(help="Show the settings in force, or the schema of all.", no_args_is_help=True)


@app.command()
def show(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON: by name, the value and its origin.")] = False,
) -> None:
    """Print every setting with its value (secrets masked) and where the value came from.

    Of several accounts, first what they have in common, then under each one's name what is its own.
    """
    import json

    accounts: Sequence[Settings] = context.obj.all()
    every = {settings.zendesk.subdomain: _rows(settings) for settings in accounts}
    first = next(iter(every.values()))
    common = {name: row for name, row in first.items() if all(rows[name] == row for rows in every.values())}
    own = {
        account: {name: row for name, row in rows.items() if name not in common}
        for account, rows in every.items()
        if len(every) > 1
    }
    if as_json:
        document: dict[str, Any] = _described(common)
        if own:
            document["accounts"] = {account: _described(rows) for account, rows in own.items()}
        typer.echo(json.dumps(document, indent=2))
        return
    texts = [_in_words(name, value) for rows in every.values() for name, (value, _) in rows.items()]
    widths = max(map(len, first)), max(map(len, texts))
    _print(common, widths)
    for account, rows in own.items():
        typer.echo(f"\naccount {account}")
        _print(rows, widths)


def _print(rows: Rows, widths: tuple[int, int]) -> None:
    for name, (value, origin) in rows.items():
        typer.echo(f"{name:{widths[0]}}  {_in_words(name, value):{widths[1]}}  {origin}")


def _described(rows: Rows) -> dict[str, Any]:
    return {name: {"value": value, "origin": origin} for name, (value, origin) in rows.items()}


def _rows(settings: Settings) -> Rows:
    # JSON mode masks each SecretStr; `redact` does the same to the password that a proxy's URL may hold.
    return {
        (name := f"{group}.{setting}"): (
            settings.redact(value) if isinstance(value, str) else value,
            settings.origin(name),
        )
        for group, members in settings.model_dump(mode="json", by_alias=True).items()
        for setting, value in members.items()
    }


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
    document["properties"]["accounts"] = {
        "type": "array",
        "items": {"$ref": "#/$defs/ZendeskSettings", "required": ["subdomain"]},
        "description": "Several accounts: of each its subdomain, and what it has of its own in place of the zendesk group's.",
    }
    typer.echo(json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", **document}, indent=2))
