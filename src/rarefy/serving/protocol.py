"""HTTP/1.1 of uvicorn with bounds on clients that send or read too slowly, or not at all."""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol


def bounded(client_s: float) -> type[H11Protocol]:
    """The protocol class for a server whose clients get so many seconds for the head of a request, and for taking what
    was sent to them."""

    class Bounded(H11Protocol):
        _timer: asyncio.TimerHandle | None = None

        def _wait(self) -> None:
            if self._timer is None:
                self._timer = self.loop.call_later(client_s, self._give_up)

        def _stop_waiting(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _give_up(self) -> None:
            self._timer = None
            self.transport.abort()

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._wait()  # for the head of the first request

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is None or self.cycle.response_complete:
                self._wait()  # a head has begun and is not whole
            elif not self.flow.write_paused:
                self._stop_waiting()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._stop_waiting()
            self._wait()  # for the client to read

        def resume_writing(self) -> None:
            super().resume_writing()
            self._stop_waiting()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if self.transport.is_closing():
                self._wait()  # closing waits for what is still to be read

        def timeout_keep_alive_handler(self) -> None:
            super().timeout_keep_alive_handler()
            self._wait()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_waiting()
            super().connection_lost(exc)

    return Bounded
