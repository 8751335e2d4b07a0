"""Attribution: where does the model look?

`relevance` explains any supported model; the parts (`attrreg.attribution.parts`,
`attrreg.attribution.controls`) put it to work inside a training method.
"""

from attrreg.attribution.engine import Ledger, ledger, relevance
from attrreg.attribution.guards import UnsupportedOperation
from attrreg.attribution.rules import RULES, Rule

__all__ = ["RULES", "Ledger", "Rule", "UnsupportedOperation", "ledger", "relevance"]
