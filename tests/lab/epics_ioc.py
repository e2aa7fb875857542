"""A soft IOC for the tests: two channels' worth of arithmetic behind process variables. Run it with a port: see ``main``."""

from __future__ import annotations

import asyncio
import os
import sys

N_CONTROLS = 3
MAX_ROWS = 4


def main(port: str, identity: str) -> None:
    """Serve ``TEST:*`` on the loopback address.

    Each row of three controls (a, b, c) is answered by a + 10 b + 100 c and a * b. Controls are zero until they are set.
    What is written to TEST:FAULT happens at the next triggers: "late" answers the one before, "silent" never answers, "short"
    loses a reading, "shared" triggers once more by itself, "invalid" keeps the old readings with an alarm, "refuse" raises.
    """
    os.environ |= {
        "EPICS_CA_SERVER_PORT": port,
        "EPICS_CAS_INTF_ADDR_LIST": "127.0.0.1",
        "EPICS_CAS_AUTO_BEACON_ADDR_LIST": "NO",
        "EPICS_CAS_BEACON_ADDR_LIST": "127.0.0.1",
    }
    from caproto import AlarmSeverity, AlarmStatus, ChannelType
    from caproto.asyncio.server import start_server
    from caproto.server import PVGroup, pvproperty

    class Plate(PVGroup):
        rows = pvproperty(name="ROWS", value=[0.0], max_length=N_CONTROLS * MAX_ROWS, dtype=float)
        shared = pvproperty(name="SHARED", value=[0.0], max_length=N_CONTROLS, dtype=float)
        channels = pvproperty(name="CHANNELS", value=[-1], max_length=N_CONTROLS, dtype=int)
        outputs = pvproperty(name="OUTPUTS", value=[0.0], max_length=2 * MAX_ROWS, dtype=float, alarm_group="own")
        trigger = pvproperty(name="TRIGGER", value=0, dtype=int)
        done = pvproperty(name="DONE", value=0, dtype=int)
        who = pvproperty(name="WHO", value=identity, dtype=ChannelType.STRING)
        who_long = pvproperty(name="WHOLONG", value=identity * 20, dtype=ChannelType.CHAR, max_length=400)
        safe = pvproperty(name="SAFE", value=0, dtype=int)
        fault = pvproperty(name="FAULT", value="", dtype=str, max_length=40)
        history = pvproperty(name="HISTORY", value="", dtype=ChannelType.CHAR, max_length=4000)
        held: list[float] = [0.0] * N_CONTROLS

        async def note(self, what: str) -> None:
            await self.history.write(f"{self.history.value} {what}".strip())

        @shared.putter
        async def shared(self, instance, value) -> None:
            for channel, number in zip(self.channels.value, value, strict=True):
                if channel >= 0:
                    self.held[channel] = number
            await self.note("shared")

        @safe.putter
        async def safe(self, instance, value) -> None:
            await self.note(f"safe={value}")

        @trigger.putter
        async def trigger(self, instance, value) -> None:
            fault = self.fault.value
            await self.note("trigger")
            await self.fault.write("")
            if fault == "silent":
                return
            if fault == "refuse":
                raise ValueError("the detector is saturated")
            if fault == "late":
                await self.done.write(self.last_number if hasattr(self, "last_number") else 0)
                asyncio.get_running_loop().call_later(0.1, lambda: asyncio.ensure_future(self.answer(value, fault)))
                return
            await self.answer(value, fault)

        async def answer(self, number: int, fault: str) -> None:
            varying = [channel for channel in range(N_CONTROLS) if channel not in list(self.channels.value)]
            values = list(self.rows.value)
            outputs: list[float] = []
            for start in range(0, len(values), len(varying)):
                controls = list(self.held)
                for channel, setting in zip(varying, values[start:], strict=False):
                    controls[channel] = setting
                a, b, c = controls
                outputs += [a + 10 * b + 100 * c, a * b]
            if fault == "invalid":
                await self.outputs.alarm.write(status=AlarmStatus.READ, severity=AlarmSeverity.INVALID_ALARM)
            else:
                await self.outputs.alarm.write(status=AlarmStatus.NO_ALARM, severity=AlarmSeverity.NO_ALARM)
                await self.outputs.write(outputs[:-1] if fault == "short" else outputs)
            await self.done.write(number)
            self.last_number = number
            if fault == "shared":
                self.meddle = True

        @outputs.getter
        async def outputs(self, instance) -> None:
            if getattr(self, "meddle", False):
                self.meddle = False
                await self.done.write(1)

    async def serve() -> None:
        await start_server(Plate(prefix="TEST:").pvdb, interfaces=["127.0.0.1"])

    asyncio.run(serve())


if __name__ == "__main__":
    main(*sys.argv[1:])
