"""The idle gate opens when no node waits, after a while, and at the end."""

from __future__ import annotations

import asyncio

from gpuid_operator.engine.core.idle_gate import PATIENCE, IdleGate


async def test_waiters_pass_once_no_node_waits() -> None:
    idle_gate = IdleGate()
    await idle_gate.wait()
    idle_gate.update(2)
    waiting = asyncio.create_task(idle_gate.wait())
    await asyncio.sleep(0)
    idle_gate.update(1)
    await asyncio.sleep(0)
    assert not waiting.done()
    idle_gate.update(0)
    await waiting


async def test_waiters_pass_after_the_patience_at_the_latest() -> None:
    idle_gate = IdleGate()
    loop = asyncio.get_running_loop()
    idle_gate.update(1)
    await idle_gate.wait()
    assert loop.time() == PATIENCE
    # Those who come later have patience of their own.
    idle_gate.update(1)
    await idle_gate.wait()
    assert loop.time() == 2 * PATIENCE


async def test_waiters_pass_at_the_end() -> None:
    idle_gate = IdleGate()
    idle_gate.update(1)
    waiting = asyncio.create_task(idle_gate.wait())
    await asyncio.sleep(0)
    idle_gate.disable()
    await waiting
    idle_gate.update(1)
    await idle_gate.wait()
