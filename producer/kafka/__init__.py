"""The far end we write: an account's tickets topic and the checkpoint topic.

- `session` is the protocol: fence, recover, commit page and checkpoint in one transaction
- `recovery` says which checkpoint a session may go on from
- `transactions` wraps one aiokafka producer so that what it cannot promise is never relied on
- `batches` turns records into batches per partition
- `checkpoints` reads committed checkpoints
- `surgery` shows and moves a checkpoint for a person
- `topics` lists, creates and inspects topics
- `connection` opens clients and tells why a cluster cannot be reached; `failures` says what a Kafka error means for us
"""
