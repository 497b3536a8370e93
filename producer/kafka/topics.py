"""Lists, creates and inspects the topics. Asks for all topics at once and names none: naming lets brokers create them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiokafka import errors as kafka
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from producer.errors import Misconfigured, Refused, SessionOver
from producer.kafka.batches import BATCH_BYTES
from producer.kafka.connection import client_options, why_unreachable
from producer.kafka.failures import ASK, within
from producer.settings import KafkaSettings, Settings, TopicsSettings
from producer.streams import BESIDE, Stream

_WEEK_MS = str(7 * 24 * 3600 * 1000)
# Brokers refuse records an hour ahead of their own clock, and ours may be wrong; compaction lags go by it as well.
_BY_BROKERS_CLOCK = {"message.timestamp.type": "LogAppendTime"}
_TICKETS_BYTES = 8 * 1024 * 1024
_LEAST_BYTES = BATCH_BYTES + 48_588  # the broker's default of 1,048,588: a full batch that does not compress must fit


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic as the cluster has it."""

    name: str
    partitions: int
    replication: int


@dataclass(frozen=True, slots=True)
class Survey:
    """The cluster at a glance: its topics by name, and how many brokers it has."""

    topics: Mapping[str, Topic]
    brokers: int


@dataclass(frozen=True, slots=True)
class Plan:
    """A topic that we would create."""

    name: str
    partitions: int
    configs: Mapping[str, str]


def plans(settings: Settings, stream: Stream) -> tuple[Plan, ...]:
    """The topics of an account's stream with the settings that the promise needs (design, section 4)."""
    topics = settings.topics
    compacted = {
        "cleanup.policy": "compact",
        "min.compaction.lag.ms": _WEEK_MS,
        "delete.retention.ms": _WEEK_MS,
        "max.message.bytes": str(_TICKETS_BYTES),
        **_BY_BROKERS_CLOCK,
    }
    # Each event is one of its own and would be compacted away by the next one of its ticket.
    kept = {**compacted, "cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}
    beside = [name for name in settings.zendesk.include if name in BESIDE] if stream.sideloads else []
    return (
        Plan(topics.of(stream), 12, kept if stream.events else compacted),
        *(Plan(topics.beside(array), 12, compacted) for array in beside),
        # Small segments and an eager cleaner: the topic is read at every start, and holds one record per account of worth.
        Plan(
            topics.checkpoints,
            12,
            {
                "cleanup.policy": "compact",
                "segment.bytes": str(16 * 1024 * 1024),
                "segment.ms": str(24 * 3600 * 1000),
                "min.cleanable.dirty.ratio": "0.1",
                "max.compaction.lag.ms": str(24 * 3600 * 1000),
                **_BY_BROKERS_CLOCK,
            },
        ),
        Plan(
            topics.dead_letters,
            1,
            {
                "cleanup.policy": "delete",
                "retention.ms": str(30 * 24 * 3600 * 1000),
                "max.message.bytes": str(_TICKETS_BYTES),
                **_BY_BROKERS_CLOCK,
            },
        ),
    )


class Admin:
    """Asks the cluster about its topics, and for new ones."""

    def __init__(self, client: AIOKafkaAdminClient) -> None:
        self._client = client

    async def survey(self) -> Survey:
        """All topics and brokers that we may see."""
        topics = {
            topic["topic"]: Topic(topic["topic"], len(topic["partitions"]), _replication(topic["partitions"]))
            for topic in await self._client.describe_topics()
            if not topic["error_code"]
        }
        cluster = await self._client.describe_cluster()
        return Survey(topics, len(cluster["brokers"]))

    async def create(self, missing: Iterable[Plan], brokers: int) -> list[str]:
        """Create topics; those that another instance has created meanwhile are fine. Answers warnings, one a line.

        Raises:
            Refused: no right to create topics.
            Misconfigured: the cluster will not have a topic as we need it.
        """
        replication = min(3, brokers)
        in_sync = min(2, replication)
        wanted = [
            NewTopic(
                plan.name,
                plan.partitions,
                replication,
                topic_configs={**plan.configs, "min.insync.replicas": str(in_sync)},
            )
            for plan in missing
        ]
        response: Any = await self._client.create_topics(wanted)
        for name, code, *text in response.topic_errors:
            error = kafka.for_code(code)
            if error in (kafka.NoError, kafka.TopicAlreadyExistsError):
                continue
            if error in (kafka.TopicAuthorizationFailedError, kafka.ClusterAuthorizationFailedError):
                raise Refused(
                    f"topic {name} does not exist, or may not be seen, and Kafka does not let us create it",
                    hint=f"grant the ACLs Describe and Write on topic {name} if it exists, else Create on it; or have it created: "
                    "`zendesk-producer topics create --dry-run` prints the settings",
                )
            raise Misconfigured(
                f"Kafka will not create topic {name}: {error.__name__} {' '.join(filter(None, text))}".rstrip(),
                hint="create it with `kafka-topics.sh`, or ask the cluster's owner; `zendesk-producer topics create --dry-run` "
                "prints the settings",
            )
        if replication < 3:
            return [
                f"created {', '.join(topic.name for topic in wanted)} with replication factor {replication}, since the "
                f"cluster has {brokers} broker{'s'[: brokers != 1]}: what is lost with a broker is lost"
            ]
        return []

    async def configs(self, *names: str) -> dict[str, dict[str, str]]:
        """The effective settings of topics; those that we may not read are left out."""
        responses: list[Any] = await self._client.describe_configs(
            [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
        )
        return {
            resource[3]: {entry[0]: entry[1] for entry in resource[4]}
            for response in responses
            for resource in response.resources
            if resource[0] == 0
        }


def _replication(partitions: Iterable[Mapping[str, Any]]) -> int:
    return min((len(partition["replicas"]) for partition in partitions), default=0)


def inspect(
    topics: TopicsSettings, stream: Stream, survey: Survey, configs: Mapping[str, Mapping[str, str]]
) -> tuple[list[str], list[str]]:
    """What is wrong with existing topics: (errors, warnings), each naming topic, setting and the way out.

    Errors are what would break the promise by itself; warnings what breaks it together with another fault. Settings that
    we may not read are not judged.
    """
    errors: list[str] = []
    warnings: list[str] = []
    checkpoints = configs.get(topics.checkpoints, {})
    policy = checkpoints.get("cleanup.policy", "compact")
    if policy != "compact":
        errors.append(
            f"topic {topics.checkpoints} has cleanup.policy={policy}: the checkpoint would be deleted by age; "
            "set cleanup.policy=compact"
        )
    rows = topics.of(stream)
    policy = configs.get(rows, {}).get("cleanup.policy", "delete" if stream.events else "compact")
    if stream.events and "compact" in policy:
        errors.append(
            f"topic {rows} has cleanup.policy={policy}: of a ticket's events only the newest would be kept; "
            "set cleanup.policy=delete and retention.ms=-1"
        )
    elif "delete" in policy and not stream.events:
        warnings.append(
            f"topic {rows} has cleanup.policy={policy}: {stream.name} that nobody changes disappear by age; "
            "set cleanup.policy=compact to keep the newest version of each"
        )
    for name in (rows, topics.checkpoints):
        config, topic = configs.get(name, {}), survey.topics.get(name)
        limit = int(config.get("max.message.bytes", _TICKETS_BYTES))
        if limit < _LEAST_BYTES:
            errors.append(
                f"topic {name} has max.message.bytes={limit}: full batches would be refused; set at least {_LEAST_BYTES}"
                + (f", better {_TICKETS_BYTES}" if name == rows else "")
            )
        elif name == rows and limit < _TICKETS_BYTES:
            warnings.append(
                f"topic {name} has max.message.bytes={limit}: a larger record goes to the dead letters; "
                f"set max.message.bytes={_TICKETS_BYTES}"
            )
        in_sync = int(config.get("min.insync.replicas", 2))
        if topic is not None and "min.insync.replicas" in config and in_sync > topic.replication:
            errors.append(
                f"topic {name} has min.insync.replicas={in_sync} and replication factor {topic.replication}: no append can "
                f"succeed; set min.insync.replicas={max(1, topic.replication - 1)}"
            )
        if topic is not None and topic.replication < min(3, survey.brokers):
            warnings.append(
                f"topic {name} has replication factor {topic.replication} in a cluster of {survey.brokers} brokers: "
                "committed pages are lost with its brokers; give it 3"
            )
        elif topic is not None and topic.replication > 1 and in_sync < 2:
            warnings.append(
                f"topic {name} has min.insync.replicas={in_sync}: a committed page may be on one broker only; set 2"
            )
        if config.get("unclean.leader.election.enable") == "true":
            warnings.append(
                f"topic {name} has unclean.leader.election.enable=true: an election may lose committed pages; set false"
            )
    return errors, warnings


@asynccontextmanager
async def open_admin(settings: KafkaSettings) -> AsyncIterator[Admin]:
    """An admin client for a few questions; all of it, what is done inside included, within ASK seconds.

    Whoever uses a cluster begins here, so this is where it is told why it cannot be used.

    Raises:
        Unavailable, Misconfigured, Refused: no bootstrap server can be used, and why.
        SessionOver, Refused: as from `within`.
    """
    try:
        async with within(ASK, "ask for the topics"):
            client = AIOKafkaAdminClient(**client_options(settings))
            try:
                await client.start()
                yield Admin(client)
            finally:
                await client.close()
    except SessionOver as error:
        if isinstance(error.__cause__, kafka.KafkaConnectionError):
            raise await why_unreachable(settings) from None
        raise
