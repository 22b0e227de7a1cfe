"""Which policy applies to a node, and its effective settings."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Final, TypeVar

from gpuid_operator.api.inventory import ConditionStatus, InventorySpec
from gpuid_operator.api.policy import (
    LABEL_KEY_PATTERN,
    Check,
    Expectation,
    LabelRequirement,
    LabelSelector,
    Policy,
    PolicySpec,
    PolicyStatus,
    SelectorOperator,
)
from gpuid_operator.api.sinks import TYPE_NAMES, Sink
from gpuid_operator.plan import conditions
from gpuid_operator.plan.duplicates import Duplicate
from gpuid_operator.plan.outbox import SinkFilter
from gpuid_operator.plan.quarantine import QuarantineIndex
from gpuid_operator.plan.resource_slices import PublishedGPUs
from gpuid_operator.plan.status_change import StatusContext

_KEY: Final = re.compile(LABEL_KEY_PATTERN)
_MAX_PREFIX: Final = 253


@dataclass(frozen=True, slots=True)
class EffectivePolicy:
    """The settings in force for a node."""

    policy: str
    """Name of the policy, empty for the built-in policy."""
    suspended: bool
    read_interval: timedelta
    sighting_interval: timedelta
    node_labels: bool
    retention: timedelta
    sinks: tuple[Sink, ...]
    """The sinks of known types."""
    unknown_sinks: tuple[str, ...]
    """Names of the sinks whose types this version of the operator does not know. Where there are
    any, it skips the node: a status without their cursors would restart their deliveries."""
    builtin_sinks: frozenset[str]
    """Names of the sinks that the environment of the operator configures, with credentials."""
    checks: tuple[Check, ...]
    expect: Expectation | None

    def status_context(
        self,
        generation: int,
        *,
        foreign: Collection[str] = (),
        quarantines: QuarantineIndex | None = None,
        quarantine_time: datetime | None = None,
        duplicates: tuple[Duplicate, ...] | None = (),
        published: PublishedGPUs | None = None,
    ) -> StatusContext:
        """The settings that the status depends on; `foreign` names the checks of the check
        runner."""
        return StatusContext(
            policy=self.policy,
            generation=generation,
            sink_filters=tuple(map(sink_filter, self.sinks)),
            sighting_interval=self.sighting_interval,
            suspended=self.suspended,
            checks=frozenset({check.name for check in self.checks} | set(foreign)),
            quarantines=quarantines,
            quarantine_time=quarantine_time,
            duplicates=duplicates,
            published=published,
            expect=self.expect,
        )


def sink_filter(sink: Sink) -> SinkFilter:
    return SinkFilter(name=sink.name, type=sink.type, sightings=sink.sightings)


def unknown_sinks(sinks: Iterable[Sink]) -> tuple[str, ...]:
    """The names of the sinks whose types this version of the operator does not know."""
    return tuple(sink.name for sink in sinks if not sink.is_known)


def selects(selector: LabelSelector | None, labels: Mapping[str, str]) -> bool:
    """Whether a label selector matches; an absent or empty one matches everything."""
    if selector is None:
        return True
    return all(
        labels.get(name) == value for name, value in (selector.match_labels or {}).items()
    ) and all(_holds(item, labels) for item in selector.match_expressions or ())


def _holds(item: LabelRequirement, labels: Mapping[str, str]) -> bool:
    """As in Kubernetes, NotIn also holds if the label is absent."""
    value = labels.get(item.key)
    match item.operator:
        case SelectorOperator.EXISTS:
            return value is not None
        case SelectorOperator.DOES_NOT_EXIST:
            return value is None
        case SelectorOperator.IN:
            return value is not None and value in (item.values or ())
        case SelectorOperator.NOT_IN:
            return value is None or value not in (item.values or ())


def well_formed(selector: LabelSelector) -> bool:
    """Whether each key is a valid label key. The API server rejects a list request with another
    key, and a schema cannot validate the keys of `matchLabels`."""
    keys = [*(selector.match_labels or {}), *(e.key for e in selector.match_expressions or ())]
    return all(_KEY.search(key) and len(key.rpartition("/")[0]) <= _MAX_PREFIX for key in keys)


def selector_text(selector: LabelSelector) -> str:
    """The selector in the canonical form of the API server's `labelSelector` parameter."""
    requirements = [
        f"{name}={value}" for name, value in sorted((selector.match_labels or {}).items())
    ]
    for item in selector.match_expressions or ():
        values = f"({','.join(sorted(item.values or ()))})"
        match item.operator:
            case SelectorOperator.EXISTS:
                requirements.append(item.key)
            case SelectorOperator.DOES_NOT_EXIST:
                requirements.append(f"!{item.key}")
            case SelectorOperator.IN:
                requirements.append(f"{item.key} in {values}")
            case SelectorOperator.NOT_IN:
                requirements.append(f"{item.key} notin {values}")
    return ",".join(requirements)


def rank(policy: Policy) -> int:
    """The priority in force."""
    return policy.spec.priority or 0


def by_precedence(policies: Iterable[Policy]) -> list[Policy]:
    """Sort policies by precedence: highest priority, then oldest, then by name."""
    return sorted(policies, key=lambda p: (-rank(p), p.created, p.name))


def matching(policies_ranked: Sequence[Policy], labels: Mapping[str, str]) -> list[Policy]:
    """The matching policies of the highest matching priority. The first applies; the others
    conflict with it."""
    matching = [policy for policy in policies_ranked if selects(policy.spec.node_selector, labels)]
    if not matching:
        return []
    return [policy for policy in matching if rank(policy) == rank(matching[0])]


T = TypeVar("T")


def _first(mine: T | None, default: T | None, fallback: T) -> T:
    if mine is not None:
        return mine
    return fallback if default is None else default


def runnable(spec: PolicySpec) -> tuple[Check, ...]:
    """The checks with a valid pod selector."""
    return tuple(check for check in spec.checks or () if well_formed(check.pod_selector))


def resolve_policy(
    policy: Policy | None,
    *,
    builtin: PolicySpec,
    spec: InventorySpec,
    suspended: bool = False,
    checks_allowed: bool = False,
) -> EffectivePolicy:
    """Merge the policy, the built-in policy and the spec of the inventory.

    `builtin` has every field except the selector. `suspended` is the SUSPEND setting of the
    operator, `checks_allowed` its POLICY_CHECKS setting.
    """
    own = policy.spec if policy else PolicySpec()
    sinks = {sink.name: sink for sink in _first(own.sinks, builtin.sinks, [])}
    from_environment = frozenset() if own.sinks is not None else frozenset(sinks)
    mine = {sink.name: sink for sink in spec.sinks or ()}
    merged = (sinks | mine).values()
    return EffectivePolicy(
        policy=policy.name if policy else "",
        suspended=bool(
            suspended or own.suspend or spec.suspend or (own.suspend is None and builtin.suspend)
        ),
        read_interval=_first(own.read_interval, builtin.read_interval, timedelta(hours=24)),
        sighting_interval=_first(
            own.sighting_interval, builtin.sighting_interval, timedelta(hours=24)
        ),
        node_labels=_first(own.node_labels, builtin.node_labels, True),
        retention=_first(own.retention, builtin.retention, timedelta(hours=720)),
        sinks=tuple(sink for sink in merged if sink.is_known),
        unknown_sinks=unknown_sinks(merged),
        builtin_sinks=from_environment - mine.keys(),
        checks=runnable(own) if checks_allowed else (),
        expect=own.expect,
    )


def policy_status(
    policy: Policy,
    *,
    matched: int,
    contenders: Collection[str],
    checks_allowed: bool,
    now: datetime,
) -> PolicyStatus:
    """The status of a policy. `matched` is the number of nodes to which it applies; `contenders`
    are the policies of the same priority that also match some of its nodes."""
    condition = partial(
        conditions.of_object, policy.status.conditions, generation=policy.generation, now=now
    )
    ready = condition("Ready", ConditionStatus.TRUE, "InForce")
    if policy.spec.checks and not checks_allowed:
        ready = condition(
            "Ready",
            ConditionStatus.TRUE,
            "ChecksDisabled",
            "in force except for its checks, because policy checks are disabled:"
            " set POLICY_CHECKS=true (checks.enabled in the chart)",
        )
    broken = [
        check.name for check in policy.spec.checks or () if not well_formed(check.pod_selector)
    ]
    if broken:
        words = (
            f"in force except for checks {', '.join(broken)}: podSelector has an invalid label key;"
            " use a key such as app or example.com/app"
        )
        ready = condition("Ready", ConditionStatus.FALSE, "InvalidSelector", words)
    unknown = unknown_sinks(policy.spec.sinks or ())
    if unknown:
        words = (
            "not in force: this version of the operator does not know the type of sinks"
            f" {', '.join(unknown)}, and skips the policy's nodes; set {TYPE_NAMES},"
            " or install a version that knows the type"
        )
        ready = condition("Ready", ConditionStatus.FALSE, "InvalidSink", words)
    if policy.fault:
        words = (
            f"not in force: failed to parse the spec: {policy.fault}. The operator skips the"
            " policy's nodes. If the spec was written for a later version of the operator, install"
            " that version; otherwise correct the spec"
        )
        ready = condition("Ready", ConditionStatus.FALSE, "NotUnderstood", words)
    if contenders:
        conflict = condition(
            "Conflict",
            ConditionStatus.TRUE,
            "SamePriority",
            f"shares its priority and some nodes with {', '.join(sorted(contenders))}; the oldest"
            " policy wins: set different priorities",
        )
    else:
        conflict = condition("Conflict", ConditionStatus.FALSE, "NoConflict")
    return PolicyStatus(
        observed_generation=policy.generation,
        priority=None if policy.fault else rank(policy),
        matched_nodes=matched,
        conditions=[conflict, ready],
    )
