"""Nodes without a target container to read them in: they wait, lack a pod, or have departed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial

from gpuid_operator.engine.reading.node_fetcher import NodeFetcher
from gpuid_operator.engine.state.cluster_state import ClusterState
from gpuid_operator.engine.state.node_view import NodeView
from gpuid_operator.engine.state.nodes import node_info
from gpuid_operator.engine.writing.status_writer import StatusWriter
from gpuid_operator.plan import status as plan
from gpuid_operator.plan.no_target import (
    NodeWithoutTarget,
    NoTargetAction,
    StoppedContainer,
    grace_wait,
    next_action,
    no_target_error,
)
from gpuid_operator.telemetry.log import get_logger

_log = get_logger(__name__)


class Departures:
    """Writes the status of nodes without a target container to read them in."""

    def __init__(
        self,
        *,
        state: ClusterState,
        fetcher: NodeFetcher,
        status_writer: StatusWriter,
        clock: Callable[[], datetime],
        grace: timedelta,
    ) -> None:
        """`clock` dates departures, and the retention counts from them; `grace` is how long a node
        may be without a target pod before that is reported."""
        self._state = state
        self._fetcher = fetcher
        self._status_writer = status_writer
        self._clock = clock
        self._grace = grace.total_seconds()

    async def process(self, view: NodeView) -> timedelta | None:
        """Do what is due now. Returns the time until something else may be due, if that is known.

        Raises KubeError if the Node could not be fetched or the inventory not be written.
        """
        lacked = view.target is None
        node = self._node(view)
        action = self._action(node)
        if action is NoTargetAction.FETCH_NODE:
            facts = await self._fetcher.fetch(view.name)
            view = self._state.view(view.name)
            node = self._node(view, gone=facts is None)
            action = self._action(node)
        match action:
            case NoTargetAction.FETCH_NODE:
                return timedelta(0)  # the grace period ended meanwhile
            case NoTargetAction.DEPART:
                await self._depart(view)
            case NoTargetAction.REPORT if lacked and view.target is not None:
                return timedelta(0)  # it has one by now
            case NoTargetAction.REPORT:
                await self._report(view)
            case NoTargetAction.WAIT:
                return grace_wait(node, grace=self._grace, now=_now())
        return None

    def _node(self, view: NodeView, *, gone: bool = False) -> NodeWithoutTarget:
        known = view.node
        return NodeWithoutTarget(
            has_inventory=view.inventory is not None,
            departed=view.departed,
            suspended=view.suspended,
            has_gpus=self._state.has_gpus(view.name),
            fetched=None if known is None else known.fetched,
            gone=gone,
            pods_changed=self._state.pods.changed(view.name) or None,
        )

    def _action(self, node: NodeWithoutTarget) -> NoTargetAction:
        return next_action(node, grace=self._grace, now=_now())

    async def _report(self, view: NodeView) -> None:
        pod = view.target[1] if view.target else self._state.pods.waiting(view.name)
        stopped = None
        if pod is not None:
            stopped = StoppedContainer(
                namespace=pod.namespace,
                pod=pod.name,
                container=pod.container,
                running=view.target is not None,
                no_image=pod.no_image,
            )
        error = no_target_error(
            self._state.pods.targets,
            stopped=stopped,
            node=view.node.facts.traits if view.node else None,
            forbidden=self._state.pods.forbidden,
        )
        decide = partial(
            plan.after_failure,
            reason=error.reason,
            message=error.message,
            node=node_info(view.node.facts) if view.node else None,
            now=self._clock(),
            request=view.open_request,
        )
        await self._status_writer.write(view.name, decide, create=True)

    async def _depart(self, view: NodeView) -> None:
        _log.info("node departed", node=view.name)
        decide = partial(plan.after_departure, now=self._clock())
        await self._status_writer.write(view.name, decide)


def _now() -> float:
    return asyncio.get_running_loop().time()
