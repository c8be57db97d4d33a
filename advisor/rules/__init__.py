"""The rule sets that a person can choose from, with one function per field.

``advise`` and the search call them; they import neither the search nor an export.
"""

from collections.abc import Mapping
from types import MappingProxyType

from advisor.advice import Rule
from advisor.rules import classic, evidence

RULE_SETS: Mapping[str, tuple[Rule, ...]] = MappingProxyType({"evidence": evidence.RULES, "classic": classic.RULES})
"""Every rule set by name; ``evidence`` is the default."""
