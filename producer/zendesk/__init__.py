"""The far end we read: one account's incremental ticket export.

- `source` holds what lives as long as the process, and opens a walk for each Kafka session
- `client` asks one question and takes the answer, whole and within limits
- `answers` judges a status of 300 or more
- `auth` says who asks; `budget` when it may; `page_size` for how much; `clock` what time it is over there
- `page` takes an answer's bytes apart; `boundary` decides what in it is new
- `time_export` walks the time-based export, page by page
"""
