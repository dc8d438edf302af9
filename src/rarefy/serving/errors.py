"""Errors as clients of OpenAI's interface expect them: a status, and an object that says what and where."""

from typing import Any


class ApiError(Exception):
    """An answer that is an error. param: the field at fault; code: a word for programs; retry: seconds to wait first;
    close: whether the connection ends, because the rest of the request will not be read."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry: int | None = None,
        close: bool = False,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.retry, self.close = retry, close

    def body(self) -> dict[str, Any]:
        return {"error": {"message": self.message, "type": _kind(self.status), "param": self.param, "code": self.code}}

    def headers(self) -> dict[str, str]:
        found = {} if self.retry is None else {"Retry-After": str(self.retry)}
        return found | ({"Connection": "close"} if self.close else {})


def _kind(status: int) -> str:
    if status == 429:
        return "rate_limit_error"
    return "server_error" if status >= 500 else "invalid_request_error"


def too_long(tokens: str, most: int, param: str) -> ApiError:
    """The error for a text of so many tokens ("812", or "more than 4000") where the model takes `most`."""
    message = f"This model takes at most {most} tokens of text, and the text has {tokens}. Please shorten it."
    return ApiError(400, message, param=param, code="context_length_exceeded")


def timed_out() -> ApiError:
    return ApiError(504, "The request took longer than this server allows. Please send less at a time.", code="timeout")


def failed() -> ApiError:
    return ApiError(500, "The model failed at this request; the server's log has the reason.", code="model_failed")


def stopping() -> ApiError:
    return ApiError(503, "The server is stopping. Please try another.", code="stopping", retry=5)
