"""The pretend Zendesk: one account, its incremental exports over real HTTP, its faults on demand, and the truth.

account = Account.generate(tickets=20_000, seed=1, until=clock.now(), span=90 * 86_400)
async with Simulator(account, clock=clock) as server:
    ...  # GET {server.base_url}/api/v2/incremental/tickets?start_time=0, or .../tickets/cursor?start_time=0
"""

from producer.sandbox.zendesk.access import Credentials
from producer.sandbox.zendesk.account import Account
from producer.sandbox.zendesk.changes import Changes
from producer.sandbox.zendesk.clock import Clock
from producer.sandbox.zendesk.faults import KNOWN, Fault, Scenario, ScenarioError
from producer.sandbox.zendesk.history import Offered, View
from producer.sandbox.zendesk.hostile import HOSTILE
from producer.sandbox.zendesk.limits import Limits
from producer.sandbox.zendesk.rules import Rules
from producer.sandbox.zendesk.server import Served, Simulator
from producer.sandbox.zendesk.tokens import OAuth

__all__ = [
    "HOSTILE",
    "KNOWN",
    "Account",
    "Changes",
    "Clock",
    "Credentials",
    "Fault",
    "Limits",
    "OAuth",
    "Offered",
    "Rules",
    "Scenario",
    "ScenarioError",
    "Served",
    "Simulator",
    "View",
]
