"""The benchmark: what the service costs beside a bare loop that does the same job and nothing else. Run by `make bench`.

- `pages` serves prebuilt pages of the export, as a process of its own
- `yardstick` is the bare loop, another one
- `measure` runs a process and says what it cost; `lab` runs service and yardstick under equal conditions
- `figures` turns costs into a table, with goals and verdicts

How to read the table, and one as it was measured: docs/performance.md.
"""
