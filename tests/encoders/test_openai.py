"""The client against a real server on 127.0.0.1 that behaves, and misbehaves, as servers do."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from matryo.core import EndpointError, InputError, Side
from matryo.encoders import encoder
from matryo.testing.encoders import encoder_checks

pytest.importorskip("openai")

WIDTH = 16
TEXTS = ["one", "two", "three"]


@dataclass
class Reply:
    body: Any
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class EmbeddingServer:
    """`answer` makes a reply of a request; `requests` holds what came, headers beside the body."""

    answer: Callable[[dict[str, Any]], Reply]
    url: str = ""
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)


def vector_of(text: str, width: int = WIDTH) -> np.ndarray:
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
    return np.random.default_rng(seed).standard_normal(width).astype(np.float32)


def as_base64(vector: np.ndarray) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()


def well(request: dict[str, Any], *, as_asked: bool = True) -> Reply:
    """What a sound server answers; one that is not `as_asked` gives lists whatever was asked."""
    packed = as_asked and request["encoding_format"] == "base64"
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": as_base64(vector_of(text)) if packed else vector_of(text).tolist(),
        }
        for index, text in enumerate(request["input"])
    ]
    return Reply({"object": "list", "data": data, "model": request["model"], "usage": {}})


@contextmanager
def running(answer: Callable[[dict[str, Any]], Reply]) -> Iterator[EmbeddingServer]:
    state = EmbeddingServer(answer)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            state.requests.append(request)
            state.keys.append(self.headers["Authorization"])
            reply = state.answer(request)
            text = reply.body if isinstance(reply.body, str) else json.dumps(reply.body)
            try:
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text.encode())))
                self.end_headers()
                self.wfile.write(text.encode())
            except (BrokenPipeError, ConnectionResetError):
                pass  # the client gave up, as some tests want

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def serve() -> Iterator[Callable[..., EmbeddingServer]]:
    """Start a server with `serve(answer)`; a sound one by default."""
    with ExitStack() as stack:
        yield lambda answer=well: stack.enter_context(running(answer))


def connect(server: EmbeddingServer, **options: Any) -> Any:
    options = {"api_key": "secret", "max_retries": 0, **options}
    return encoder("openai:test-model", base_url=server.url, **options)


def expected(texts: list[str]) -> np.ndarray:
    return np.stack([vector_of(text) for text in texts])


def changed(change: Callable[[list[dict[str, Any]]], Any]) -> Callable[..., Reply]:
    """A sound answer whose `data` is changed on the way out."""

    def answer(request: dict[str, Any]) -> Reply:
        reply = well(request)
        reply.body["data"] = change(reply.body["data"]) or reply.body["data"]
        return reply

    return answer


@pytest.mark.parametrize("check", encoder_checks(), ids=str)
def test_the_encoder_keeps_the_contract(check, serve):
    server = serve()

    check(lambda: connect(server))


@pytest.mark.parametrize("form", ["base64", "float"])
def test_both_forms_of_an_embedding_are_read_as_asked_for(serve, form):
    server = serve()

    vectors = connect(server, encoding_format=form).encode(TEXTS, side=Side.DOCUMENT)

    np.testing.assert_array_equal(vectors, expected(TEXTS))
    assert server.requests[0]["encoding_format"] == form


def test_lists_from_a_server_that_was_asked_for_base64_are_read_right(serve):
    server = serve(lambda request: well(request, as_asked=False))

    vectors = connect(server).encode(TEXTS, side=Side.DOCUMENT)

    np.testing.assert_array_equal(vectors, expected(TEXTS))


def test_the_full_width_is_asked_for_and_the_key_is_sent(serve):
    server = serve()

    connect(server).encode(TEXTS, side=Side.DOCUMENT)

    assert "dimensions" not in server.requests[0]
    assert server.keys == ["Bearer secret"]


def test_answers_out_of_order_are_put_in_order(serve):
    server = serve(changed(lambda data: data[::-1]))

    vectors = connect(server).encode(TEXTS, side=Side.DOCUMENT)

    np.testing.assert_array_equal(vectors, expected(TEXTS))


def test_batches_keep_within_items_and_characters(serve):
    server = serve()
    texts = ["a" * 30, "b" * 30, "c" * 200, "d", "e", "f", "g"]

    vectors = connect(server, batch_items=3, batch_chars=100).encode(texts, side=Side.DOCUMENT)

    sizes = [[len(text) for text in request["input"]] for request in server.requests]
    assert sizes == [[30, 30], [200], [1, 1, 1], [1]]
    np.testing.assert_array_equal(vectors, expected(texts))


def test_prompts_are_put_before_the_texts_and_into_the_space(serve):
    server = serve()
    made = connect(server, prompts={"query": "q: "})

    vectors = made.encode(["one"], side=Side.QUERY)

    np.testing.assert_array_equal(vectors, expected(["q: one"]))
    assert made.space.query.prompt == "q: "


def test_a_known_model_brings_its_width_and_dims_without_a_request(serve):
    server = serve()
    made = encoder("openai:text-embedding-3-small", base_url=server.url, api_key="any")

    assert (made.space.full_dim, made.dims) == (1536, (512, 1536))
    assert server.requests == []


def test_an_unknown_width_is_learned_from_one_small_request(serve):
    server = serve()
    made = connect(server)

    assert made.space.full_dim == WIDTH
    assert made.space.full_dim == WIDTH
    assert len(server.requests) == 1


def test_a_wrong_key_is_named_with_what_to_do(serve):
    server = serve(lambda _: Reply({"error": {"message": "no such key"}}, 401))

    with pytest.raises(EndpointError, match=r"status 401: .*no such key.*\n.*OPENAI_API_KEY") as e:
        connect(server, max_retries=3).encode(TEXTS, side=Side.DOCUMENT)

    assert e.value.status == 401
    assert len(server.requests) == 1


def test_a_full_server_is_asked_again_after_the_pause_it_names(serve):
    replies = iter([Reply({"error": {"message": "slow down"}}, 429, {"Retry-After": "1"})])
    server = serve(lambda request: next(replies, None) or well(request))
    start = time.monotonic()

    vectors = connect(server, max_retries=1).encode(TEXTS, side=Side.DOCUMENT)

    np.testing.assert_array_equal(vectors, expected(TEXTS))
    assert time.monotonic() - start >= 1.0
    assert len(server.requests) == 2


@pytest.mark.parametrize(("status", "advice"), [(429, "fewer requests"), (500, "server's log")])
def test_a_server_that_never_recovers_is_given_up(serve, status, advice):
    headers = {"retry-after-ms": "20"}
    server = serve(lambda _: Reply({"error": {"message": "busy"}}, status, headers))

    with pytest.raises(
        EndpointError, match=f"status {status} in up to 3 tries: .*busy.*\n.*{advice}"
    ):
        connect(server, max_retries=2).encode(TEXTS, side=Side.DOCUMENT)

    assert len(server.requests) == 3


def test_a_slow_server_is_given_up_after_the_stated_seconds(serve):
    def slow(request: dict[str, Any]) -> Reply:
        time.sleep(0.5)
        return well(request)

    server = serve(slow)

    with pytest.raises(EndpointError, match=r"no answer within 0.1 s in one try") as e:
        connect(server, timeout_seconds=0.1).encode(TEXTS, side=Side.DOCUMENT)

    assert e.value.seconds == 0.1


def test_a_server_that_is_not_there_is_named():
    with pytest.raises(EndpointError, match=r"cannot reach http://127.0.0.1:9/v1/embeddings"):
        connect(EmbeddingServer(well, url="http://127.0.0.1:9/v1")).encode(["a"], side=Side.QUERY)


def test_vectors_a_quarter_as_long_are_refused_with_their_cause(serve):
    def quarter(data: list[dict[str, Any]]) -> None:
        for item in data:
            item["embedding"] = [1.0] * (WIDTH // 4)

    server = serve(changed(quarter))

    with pytest.raises(EndpointError, match="4, a quarter of the expected width: the server pack"):
        connect(server, full_dim=WIDTH).encode(TEXTS, side=Side.DOCUMENT)


def test_a_width_that_changes_between_requests_is_refused(serve):
    made = connect(serve(lambda r: well(r) if len(r["input"]) == 1 else Reply(short(r))))
    made.encode(["one"], side=Side.DOCUMENT)

    with pytest.raises(EndpointError, match=r"must have 16 numbers, got 15 .position 0.") as e:
        made.encode(TEXTS, side=Side.DOCUMENT)

    assert (e.value.expected, e.value.got) == (16, 15)


def short(request: dict[str, Any]) -> dict[str, Any]:
    data = [
        {"index": index, "embedding": as_base64(vector_of(text)[:-1])}
        for index, text in enumerate(request["input"])
    ]
    return {"data": data}


def test_a_missing_embedding_is_refused_with_its_index(serve):
    server = serve(changed(lambda data: data[:1] + data[2:]))

    with pytest.raises(EndpointError, match=r"3 texts .* got 2, none with index 1") as e:
        connect(server).encode(TEXTS, side=Side.DOCUMENT)

    assert e.value.missing == [1]


def test_a_repeated_index_is_refused(serve):
    def repeat(data: list[dict[str, Any]]) -> None:
        data[2]["index"] = 0

    with pytest.raises(EndpointError, match="got 3, none with index 2"):
        connect(serve(changed(repeat))).encode(TEXTS, side=Side.DOCUMENT)


@pytest.mark.parametrize("form", ["base64", "float"])
def test_nan_is_refused_by_its_position(serve, form):
    def poison(data: list[dict[str, Any]]) -> None:
        bad = np.full(WIDTH, np.nan, np.float32)
        data[1]["embedding"] = as_base64(bad) if form == "base64" else bad.tolist()

    with pytest.raises(EndpointError, match="1 row has NaN or infinity: 1"):
        connect(serve(changed(poison))).encode(TEXTS, side=Side.DOCUMENT)


def test_a_vector_of_zeros_is_refused_by_its_position(serve):
    def empty(data: list[dict[str, Any]]) -> None:
        data[2]["embedding"] = [0.0] * WIDTH

    with pytest.raises(EndpointError, match="1 row has only zeros: 2"):
        connect(serve(changed(empty))).encode(TEXTS, side=Side.DOCUMENT)


@pytest.mark.parametrize(
    ("embedding", "fault"),
    [
        ("not base64!", "base64 of float32, got 'not base64!'"),
        ("YWJj", "base64 of float32, got 'YWJj'"),
        (["a"], "must be a list of numbers"),
        ([[1.0, 2.0]], r"one list of numbers, got shape \(1, 2\)"),
        (None, "one list of numbers"),
    ],
)
def test_an_embedding_that_is_no_list_of_numbers_is_refused(serve, embedding, fault):
    def spoil(data: list[dict[str, Any]]) -> None:
        data[0]["embedding"] = embedding

    with pytest.raises(EndpointError, match=fault):
        connect(serve(changed(spoil))).encode(TEXTS, side=Side.DOCUMENT)


@pytest.mark.parametrize("body", [{"result": []}, [], {"data": None}, {"data": [{"index": 0}]}])
def test_an_answer_without_data_is_refused(serve, body):
    with pytest.raises(EndpointError, match="must answer with a list 'data'"):
        connect(serve(lambda _: Reply(body))).encode(TEXTS, side=Side.DOCUMENT)


def test_an_answer_that_is_no_json_is_refused_with_its_beginning(serve):
    server = serve(lambda _: Reply("<html>a login page</html>"))

    with pytest.raises(EndpointError, match="must answer with JSON, got b'<html>a login page"):
        connect(server).encode(TEXTS, side=Side.DOCUMENT)


def test_a_missing_key_is_refused_before_any_request(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)

    with pytest.raises(InputError, match="needs a key, got none"):
        encoder("openai:test-model", base_url="http://127.0.0.1:9/v1")


@pytest.mark.parametrize(
    ("options", "fault"),
    [({"batch_items": 0}, "at least 1, got 0"), ({"encoding_format": "hex"}, "got 'hex'")],
)
def test_options_out_of_their_bounds_are_refused(options, fault):
    with pytest.raises(InputError, match=fault):
        encoder("openai:test-model", api_key="any", **options)
