"""Ticket bodies: realistic JSON, rendered on demand, the same bytes every time for the same seed, ticket and revision."""

import random
import time
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, Final

import orjson

STATES: Final = ("new", "open", "pending", "hold", "solved", "closed", "deleted", "scrubbed")
"""What a ticket can be, by its code; a scrubbed ticket shows the status `deleted`."""

NEW, OPEN, PENDING, HOLD, SOLVED, CLOSED, DELETED, SCRUBBED = range(8)

LONG_DESCRIPTION_EVERY: Final = 2_003
"""One ticket id in so many has a description at Zendesk's limit of about 65,000 characters."""
HUGE_EVERY: Final = 20_000
HUGE_ID: Final = 13_337
"""One ticket id in 20,000 (13337 is the first) is over 1 MiB, by a long custom field, which every body holds twice."""

AGENTS: Final = range(6_140_000_000_000, 6_140_000_000_040)
GROUPS: Final = range(33_144_692_244_499, 33_144_692_244_506)
ORGANIZATIONS: Final = range(6_130_869_157_658, 6_130_869_157_758)
CUSTOM_STATUSES: Final = range(6_130_830_355_738, 6_130_830_355_738 + len(STATES))
"""The ids that tickets refer to; a custom status has the place that its state has in `STATES`."""

_POOL: Final = 64  # variants of each pre-rendered piece: enough that a page does not compress like one ticket

# The keys, and their order, of a ticket of the time-based export as recorded in 2024.
_TICKET: Final = (
    b'{"url":"https://%b.zendesk.com/api/v2/tickets/%d.json","id":%d,"external_id":%b,"via":%b,'
    b'"created_at":"%b","updated_at":"%b","type":%b,"subject":%b,"raw_subject":%b,"description":%b,"priority":%b,'
    b'"status":"%b","recipient":%b,"requester_id":%d,"submitter_id":%d,"assignee_id":%b,"organization_id":%b,'
    b'"group_id":%b,"collaborator_ids":%b,"follower_ids":%b,"email_cc_ids":%b,"forum_topic_id":%b,"problem_id":%b,'
    b'"has_incidents":%b,"is_public":%b,"due_at":%b,"tags":%b,"custom_fields":%b,"satisfaction_rating":%b,'
    b'"sharing_agreement_ids":%b,"custom_status_id":%d,"fields":%b,"followup_ids":%b,"ticket_form_id":%d,'
    b'"brand_id":%d,"allow_channelback":%b,"allow_attachments":%b,"from_messaging_channel":%b%b,'
    b'"generated_timestamp":%d}'
)

_SENTENCES: Final = (
    "The parcel was due on Monday and the tracking page has not moved since.",
    "I was charged twice for the same subscription, please refund one of them.",
    "Die Rechnung zeigt die falsche Umsatzsteuer; können Sie sie bitte größer als PDF schicken?",
    "L’appareil s’éteint après la mise à jour, même branché au secteur.",
    "No puedo iniciar sesión: la contraseña nueva tampoco funciona.",
    "注文番号を間違えて入力しました。住所を変更できますか。",
    "Приложение закрывается при открытии чата.",
    "The colour in the picture is not the one in the box 📦, see the attachment.",
    "After the upgrade our single sign-on loops between two pages, for every agent in Kraków.",
    'The form says "invalid postcode" although it is the one on my passport.',
    "Please cancel order and account\tboth, thank you.",
    "يرجى تحديث عنوان التسليم الخاص بي.",
    "It worked last week on the same device, with the same network.",
    "Our webhook receives the event, and then receives it again an hour later.",
    "Is there a discount for schools? We would need forty seats from September.",
    "감사합니다. 다음 주까지 답변 부탁드립니다.",
)
_WORDS: Final = (
    "billing refund shipping damaged vip enterprise login sso mobile ios android trial renewal escalated "
    "größe français españa 配送 follow_up merged macro_sent survey_sent api webhook import bulk_2024"
).split()
_NAMES: Final = ("Ana Müller", "Björn Ståhl", "Chloé Dubois", "Dmitri Иванов", "山田 太郎", "Grace O'Neill", "Zoë Ng")

_TYPES: Final = (b"null", b'"problem"', b'"incident"', b'"question"', b'"task"')
_PRIORITIES: Final = (b"null", b'"low"', b'"normal"', b'"high"', b'"urgent"')
_BOOLEANS: Final = (b"false", b"true")


class Bodies:
    """The pieces that an account's tickets are put together from, rendered once."""

    def __init__(self, subdomain: str, seed: int) -> None:
        self._subdomain = subdomain.encode()
        self._key = seed.to_bytes(16, "big", signed=True)
        rng = random.Random(f"bodies {seed}")
        self._texts = [_unquoted(" ".join(rng.sample(_SENTENCES, 4))) for _ in range(_POOL)]
        self._subjects = [_unquoted(rng.choice(_SENTENCES).rstrip(".?")) for _ in range(_POOL)]
        self._tags = [orjson.dumps(rng.sample(_WORDS, rng.randint(0, 7))) for _ in range(_POOL)]
        first_field = _object_id(rng)
        self._custom_fields = [_custom_fields(rng, first_field) for _ in range(_POOL)]
        self._vias = [orjson.dumps(_via(rng, n)) for n in range(_POOL)]
        self._ratings = [orjson.dumps(rating) for rating in _ratings(rng)]
        self._id_lists = [orjson.dumps([_object_id(rng) for _ in range(rng.randint(0, 3))]) for _ in range(_POOL)]
        self._samples = [b"," + orjson.dumps(_sample_fields(rng, n))[1:-1] for n in range(_POOL)]
        self._forms = [_object_id(rng) for _ in range(8)]
        self._long = _unquoted(_repeated(65_000))
        self._huge = _unquoted(_repeated(450_000))

    def render(self, ticket: int, revision: int, created: int, updated: int, stamp: int, state: int) -> bytes:
        """One ticket as compact UTF-8 JSON.

        `created`, `updated` and `stamp` are Unix seconds, `state` is an index into `STATES`. A higher `revision` is the
        same ticket after another edit; requester, description and channel stay.
        """
        born = self._born(ticket)
        edit = blake2b(b"%d/%d" % (ticket, revision), key=self._key, digest_size=32).digest()
        requester = _requester(born)
        scrubbed = state == SCRUBBED
        if scrubbed:
            subject = raw_subject = b'"SCRUBBED"'
            description = b'"X"'
            tags = custom_fields = people = b"[]"
            assignee = group = b"null"
        else:
            subject, raw_subject = self._subject(born[4], ticket)
            description = self._description(born[5], born[6], ticket)
            tags = self._tags[edit[0] % _POOL]
            custom_fields = self._custom_fields[edit[1] % _POOL] % (
                self._huge if ticket % HUGE_EVERY == HUGE_ID else b"",
                int.from_bytes(born[7:11]),
                edit[8:24].hex().encode(),
                revision,
                edit[2] * 100 + edit[3],
            )
            people = self._id_lists[edit[4] % _POOL]
            assignee = b"%d" % AGENTS[edit[5] % 40] if state != NEW else b"null"
            group = b"%d" % GROUPS[edit[5] % 7]
        kind = born[11] % len(_TYPES)
        status = STATES[DELETED if scrubbed else state].encode()
        return _TICKET % (
            self._subdomain,
            ticket,
            ticket,
            b'"ext-%d"' % ticket if born[12] < 40 else b"null",
            self._vias[born[13] % _POOL],
            _date(created),
            _date(updated),
            _TYPES[kind],
            subject,
            raw_subject,
            description,
            _PRIORITIES[edit[6] % len(_PRIORITIES)],
            status,
            b'"support@%b.example"' % self._subdomain if born[14] < 90 else b"null",
            requester,
            requester if born[15] < 200 else AGENTS[born[15] % 40],
            assignee,
            b"%d" % ORGANIZATIONS[born[16] % 100] if born[16] < 180 else b"null",
            group,
            people,
            self._id_lists[born[17] % _POOL],
            people,
            b"%d" % (6_150_000_000_000 + born[18]) if born[18] == 0 else b"null",
            b"%d" % (ticket // 2 + 1) if kind == 2 and born[19] < 60 else b"null",
            _BOOLEANS[kind == 1 and born[19] < 128],
            _BOOLEANS[born[20] > 12],
            b'"%b"' % _date(stamp + 86_400 * (1 + edit[7] % 30)) if kind == 4 else b"null",
            tags,
            custom_fields,
            self._ratings[edit[24] % len(self._ratings)],
            b"[6130000000%03d]" % born[21] if born[21] < 4 else b"[]",
            CUSTOM_STATUSES[state],
            custom_fields,
            b"[%d]" % (ticket + 1) if state == CLOSED and edit[25] < 20 else b"[]",
            self._forms[born[22] % 4],
            self._forms[4 + born[22] % 3],
            _BOOLEANS[born[23] < 20],
            _BOOLEANS[born[23] < 250],
            _BOOLEANS[born[24] < 30],
            self._extras(born),
            stamp,
        )

    def requester(self, ticket: int) -> int:
        """The id of the user who asked, the same in every version of the ticket."""
        return _requester(self._born(ticket))

    def _born(self, ticket: int) -> bytes:
        """The dice thrown once for a ticket."""
        return blake2b(b"%d" % ticket, key=self._key, digest_size=32).digest()

    def _subject(self, dice: int, ticket: int) -> tuple[bytes, bytes]:
        """`subject` and `raw_subject`; they differ where the subject is made of dynamic content."""
        if dice < 2:
            return b"null", b"null"
        if dice < 4:
            return b'""', b'""'
        subject = b'"%b (#%d)"' % (self._subjects[dice % _POOL], ticket)
        return subject, b'"{{dc.subject_%d}}"' % dice if dice < 8 else subject

    def _description(self, first: int, second: int, ticket: int) -> bytes:
        if ticket % LONG_DESCRIPTION_EVERY == 0:
            return b'"%b"' % self._long
        return b'"%b\\n\\nOrder %d: %b"' % (self._texts[first % _POOL], 7919 * ticket, self._texts[second % _POOL])

    def _extras(self, born: bytes) -> bytes:
        """The keys that only some tickets have: those that came in 2025 and 2026, those of the first samples."""
        recent = b""
        if born[25] < 128:
            recent = b',"encoded_id":"%b-%b","support_type":"agent"' % (
                born[26:29].hex().upper().encode(),
                born[29:31].hex().upper().encode(),
            )
        return recent + self._samples[born[31] % _POOL] if born[31] < 16 else recent


def _requester(born: bytes) -> int:
    return 6_130_000_000_000 + int.from_bytes(born[0:4])


def _date(stamp: int) -> bytes:
    return b"%04d-%02d-%02dT%02d:%02d:%02dZ" % time.gmtime(stamp)[:6]


def _unquoted(text: str) -> bytes:
    """The inside of a JSON string."""
    return orjson.dumps(text)[1:-1]


def _repeated(characters: int) -> str:
    """So many characters of text in several alphabets and lines."""
    paragraph = " ".join(_SENTENCES) + "\n"
    return (paragraph * (characters // len(paragraph) + 1))[:characters]


def _object_id(rng: random.Random) -> int:
    return rng.randrange(33_000_000_000_000, 33_999_999_999_999)  # users, groups, forms, fields: 14 digits


def _custom_fields(rng: random.Random, first: int) -> bytes:
    """An array of 29 custom fields, numbered from `first`, with places for a long text, an order number, a reference, a count and a price."""
    dynamic = [b'"%b"', b"%d", b'"%b"', b"%d", b"%d.5"]
    values: list[bytes] = [orjson.dumps(_custom_value(rng)) for _ in range(24)]
    fields = [b'{"id":%d,"value":%b}' % (first + n, value) for n, value in enumerate([*dynamic, *values])]
    return b"[" + b",".join(fields) + b"]"


def _custom_value(rng: random.Random) -> Any:
    """A value of any type that a custom field takes: text, list of options, number, boolean, null."""
    draw = rng.random()
    if draw < 0.30:
        return None
    if draw < 0.42:
        return rng.random() < 0.5
    if draw < 0.52:
        return rng.choice([rng.randrange(100_000), rng.randrange(10_000) / 100])
    if draw < 0.64:
        return rng.sample(_WORDS, rng.randint(1, 4))
    if draw < 0.80:
        return f"20{rng.randint(20, 29)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}"
    if draw < 0.90:
        return rng.choice(_SENTENCES)
    return f"{rng.choice(_WORDS)}\n{rng.choice(_NAMES)}"


def _via(rng: random.Random, variant: int) -> dict[str, Any]:
    """How the ticket came in: every documented shape of `via`, among them a channel that is a number."""
    name = rng.choice(_NAMES)
    address = f"customer{rng.randrange(10_000)}@example.com"
    empty: dict[str, Any] = {"from": {}, "to": {}, "rel": None}
    mail: dict[str, Any] = {
        "from": {"address": address, "name": name, "original_recipients": [address, "support@acme.example"]},
        "to": {"address": "support@acme.example", "name": "Acme", "email_ccs": []},
        "rel": None,
    }
    rule: dict[str, Any] = {"from": {"id": _object_id(rng), "title": "Größe?", "deleted": False}, "to": {}}
    shapes: Sequence[tuple[str | int, dict[str, Any]]] = (
        ("email", mail),
        ("api", empty),
        ("web", empty),
        ("email", mail),
        ("web", {**empty, "rel": "zendesk_widget"}),
        ("web", {**empty, "rel": "feedback_tab"}),
        ("mobile", {**empty, "rel": "mobile"}),
        ("rule", {**rule, "rel": "trigger"}),
        (4, mail),
        (33, empty),
        ("web", {**empty, "from": {"ticket_id": rng.randrange(1, 9_999), "subject": name}, "rel": "follow_up"}),
        ("web", {**empty, "from": {"ticket_ids": [3, 5], "subject": name}, "rel": "merge"}),
        ("sample_ticket", empty),
        ("api", {**empty, "score": -86657295.30733354}),
    )
    channel, source = shapes[variant % len(shapes)]
    return {"channel": channel, "source": source}


def _ratings(rng: random.Random) -> list[Any]:
    """Customer satisfaction: null on plans without it, else an object of one of several shapes."""
    given = {"id": _object_id(rng), "score": "good", "comment": "Danke schön! 👍", "reason": None, "reason_id": None}
    bad = {"id": _object_id(rng), "score": "bad", "comment": None, "possible": True}
    return [None, {"score": "unoffered"}, {"score": "unoffered"}, {"score": "offered"}, given, bad]


def _sample_fields(rng: random.Random, variant: int) -> dict[str, Any]:
    """The keys of the original samples that the export of 2024 does not show."""
    name = rng.choice(_NAMES)
    return {
        "assignee_email": f"agent{variant}@acme.example",
        "attribute_value_ids": [_object_id(rng)],
        "collaborators": [{"email": f"customer{variant}@example.com", "name": name}],
        "comment": {"body": rng.choice(_SENTENCES), "public": True, "uploads": []},
        "email_ccs": [{"user_email": f"cc{variant}@example.com", "action": "put"}],
        "followers": [{"user_id": _object_id(rng), "action": "put"}],
        "macro_id": _object_id(rng),
        "macro_ids": [_object_id(rng), _object_id(rng)],
        "metadata": {"system": {"client": "Mozilla/5.0", "latitude": 50.06143, "longitude": 19.93658}, "custom": {}},
        "requester": {"name": name, "email": f"customer{variant}@example.com", "locale_id": 8},
        "safe_update": variant % 2 == 0,
        "updated_stamp": "2024-02-07T02:09:01Z",
        "via_followup_source_id": rng.randrange(1, 9_999),
        "via_id": rng.choice([0, 4, 5, 21, 33]),
        "voice_comment": {"from": "+15550100", "to": "+15550101", "call_duration": rng.randrange(600)},
    }
