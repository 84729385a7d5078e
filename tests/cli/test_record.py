"""kobiri accounts record: an ordinary payment, told without secrets and numbers, at operators that tell too much."""

import asyncio
import base64
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event, Thread
from typing import Never
from urllib.parse import quote

import pytest
from aiohttp import ClientSession, web

from kobiri import app as kobiri_app
from kobiri.domain.errors import DatabaseUnavailable
from kobiri.providers import registry
from kobiri.services import payments, recording, reviews
from kobiri.simulator import app as simulator_app
from tests.cli.conftest import Cli
from tests.conftest import TestDatabase
from tests.providers import test_recordings as recordings

PIN = "7394"
NAME = "Chilufya Mutale"
OTHERS = ("98765.43", "203.0.113.77", "0955812640", "kanary-cookie-93")
NUMBERS = {"mtn": "0967654328", "airtel": "0977654328", "zamtel": "0957654328", "pawapay": "0967654329"}

POST = """
INSERT INTO callbacks (tenant_id, id, provider, verdict, payment_id, digest, headers, body)
SELECT tenant_id, gen_random_uuid(), provider, 'hint', id, sha256($2), '{":method": "PUT"}', $2
FROM payments WHERE id = $1
"""


def secrets_of(provider: str, environment: dict[str, str]) -> list[str]:
    fields = registry.BY_ID[provider].spec.fields
    return [
        value for field in fields if field.secret and (value := environment.get(f"{provider}_{field.name}".upper()))
    ]


def encodings(secret: str) -> set[str]:
    raw = secret.encode()
    coded = (base64.b64encode(raw), base64.b64encode(b"user:" + raw))
    return {secret, quote(secret, safe=""), raw.hex(), json.dumps(secret)[1:-1], *(each.decode() for each in coded)}


def plain(text: str) -> str:
    return "".join(filter(str.isalnum, text.casefold()))


class TalkativeOperators:
    """The simulators, behind a door that adds to each answer all that must not be told."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment
        self.tokens: set[str] = set()
        self.requests = 0
        self.page = False  # a request for money is answered with a page, once it has arrived
        self.slow_s = 0.0  # or late
        self.asked_for_money = Event()
        self._loop = asyncio.new_event_loop()
        self._runners: list[web.BaseRunner] = []
        self.url = self._loop.run_until_complete(self._start())
        self._thread = Thread(target=self._loop.run_forever)
        self._thread.start()

    def change(self, provider: str, settings: dict[str, str]) -> None:
        """Change the settings of a simulator."""
        asyncio.run_coroutine_threadsafe(self._change(provider, settings), self._loop).result(10)

    async def _change(self, provider: str, settings: dict[str, str]) -> None:
        async with self._session.patch(f"{self._behind}/_sim/settings/{provider}", json=settings) as answer:
            assert answer.status == 200, await answer.text()

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _start(self) -> str:
        self._session = ClientSession(auto_decompress=False)
        self._behind = await self._serve(
            web.AppRunner(simulator_app.build(registry.simulators()), shutdown_timeout=0.5)
        )
        return await self._serve(web.ServerRunner(web.Server(self._answer), shutdown_timeout=0.5))

    async def _serve(self, runner: "web.BaseRunner") -> str:
        self._runners.append(runner)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{runner.addresses[0][1]}"

    async def _stop(self) -> None:
        for runner in self._runners:
            await runner.cleanup()
        await self._session.close()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self.requests += 1
        body = await request.read()
        heads = {name: value for name, value in request.headers.items() if name.lower() != "host"}
        asked = self._session.request(
            request.method, self._behind + request.path_qs, headers=heads, data=body or None, allow_redirects=False
        )
        async with asked as answer:
            said = await answer.read()
            provider = request.path.split("/")[1]
            if is_money := request.method == "POST" and "token" not in request.path:
                self.asked_for_money.set()
                await asyncio.sleep(self.slow_s)
            if is_money and self.page:
                forms = " ".join(form for one in secrets_of(provider, self.environment) for form in encodings(one))
                page = f"<html>{NAME} {OTHERS} {NUMBERS[provider]} {forms} {PIN}</html>"
                return web.Response(status=502, text=page, content_type="text/html")
            planted = plant(provider, said, secrets_of(provider, self.environment))
            kind = answer.headers.get("Content-Type")
            told = {
                "Set-Cookie": OTHERS[3],
                "X-Customer": NAME,
                "X-Key": " ".join(secrets_of(provider, self.environment)),
            }
            if b"access_token" in planted:
                self.tokens.add(json.loads(planted)["access_token"])
            headers = told | ({"Content-Type": kind} if kind else {})
            return web.Response(status=answer.status, body=planted, headers=headers)


def plant(provider: str, said: bytes, secrets: list[str]) -> bytes:
    """A JSON object with all that must not be told, in each dress, as values and as keys."""
    try:
        document = json.loads(said)
    except ValueError:
        return said
    if not isinstance(document, dict):
        return said
    national = NUMBERS[provider].removeprefix("0")
    spelt = [
        f"260{national}",
        f"+260 {national[:2]} {national[2:]}",
        national,
        f"FRI:260{national}/MSISDN",
        f"0{national}",
    ]
    forms = sorted({form for secret in secrets for form in encodings(secret)})
    document["extra"] = {
        "user_name": NAME,
        NAME: NAME,
        "balance": OTHERS[0],
        "ip": OTHERS[1],
        "msisdn": OTHERS[2],
        "number": int(national),
        "message": f"{NAME} paid from {spelt[1]} with {OTHERS[0]} left; PIN {PIN}, {' '.join(forms)}",
        **{form: form for form in (*forms, *spelt)},
        "code": PIN,
        "status": forms[0] if forms else PIN,
        "reason": spelt[0],
        "inner": [{"errorCode": form} for form in forms],
    }
    return json.dumps(document).encode()


@pytest.fixture
def operators() -> Iterator[TalkativeOperators]:
    environment = kobiri_app.simulated_environment("http://127.0.0.1:1") | {"AIRTEL_PIN": PIN}
    one = TalkativeOperators(environment)
    yield one
    one.close()


@pytest.fixture
def shop(cli: Cli, operators: TalkativeOperators) -> Cli:
    """`kobiri` with a merchant, and the platform's accounts at these operators."""
    cli.environment |= operators.environment
    cli.environment |= {f"{provider}_BASE_URL".upper(): f"{operators.url}/{provider}" for provider in registry.BY_ID}
    cli.text("tenants", "create", "shop")
    return cli


def process(cli: Cli, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in cli.environment.items() if value is not None}
    return subprocess.run(
        [sys.executable, "-m", "kobiri", *arguments], env={**os.environ, **environment}, text=True, capture_output=True,
        check=False, timeout=60, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def assert_told_nothing(told: str, provider: str, operators: TalkativeOperators) -> None:
    """`told`: all that was printed and written, and the names of the files."""
    hidden = {NAME, "Chilufya", "Mutale", *OTHERS, NUMBERS[provider].removeprefix("0"), *operators.tokens}
    hidden |= {form for secret in secrets_of(provider, operators.environment) for form in encodings(secret)}
    flat = plain(told)
    found = [text for text in hidden if plain(text) in flat]
    assert not found, told


@pytest.mark.parametrize("provider", registry.BY_ID)
def test_a_collection_is_told_without_secrets_and_replays(
    shop: Cli, operators: TalkativeOperators, database: TestDatabase, tmp_path: Path, provider: str
) -> None:
    entry, out = registry.BY_ID[provider], tmp_path / "out"
    out.mkdir()
    base = ("accounts", "record", "--platform", provider, "--mode", "test", "--out", str(out))
    said = shop.text(*base, "--check")
    done = process(shop, *base, "shop", "--collect", "3.00", "--from", NUMBERS[provider])
    assert done.returncode == 0, done.stderr
    (row,) = asyncio.run(database.fetch("SELECT id::text, provider_reference::text, status, provider FROM payments"))
    assert (row["status"], row["provider"]) == ("SUCCESSFUL", provider)

    posted = [
        one for one in recordings.all_of(entry) if one.operation == "callback" and one.means["outcome"] == "Succeeded"
    ]
    if posted:
        body = json.dumps(posted[0].request.body)
        for ours, theirs in ((recordings.REFERENCE, row["provider_reference"]), ("260961234567", NUMBERS[provider])):
            body = body.replace(ours, theirs).replace(ours.replace("-", ""), theirs.replace("-", ""))
        planted = plant(provider, body.encode(), secrets_of(provider, operators.environment))
        asyncio.run(database.fetch(POST, row["id"], planted))
    again = shop.run("accounts", "record", "--payment", row["id"], "--out", str(out), "--json")
    assert again.exit_code == 0, again.output

    files = sorted(out.iterdir())
    told = "".join(f"{path.name}\n{path.read_text()}\n" for path in files)
    screens = (said + done.stdout + done.stderr + again.output).replace(row["id"], "").replace(str(out), "")
    assert_told_nothing(screens + told, provider, operators)

    found = {one.operation for path in files for one in recordings.read(path)}
    askable = entry.spec.operations["collection"].status_query != "none"
    assert found == {"token", "send"} | ({"find"} if askable else set()) | ({"callback"} if posted else set())
    for path in files:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        for one in recordings.read(path):
            assert one.means, path.name
            asyncio.run(recordings.replay(entry, one))


def test_it_is_an_ordinary_payment(shop: Cli, database: TestDatabase, tmp_path: Path) -> None:
    """T1, T2, events and books; no second one beside it."""
    base = ("accounts", "record", "shop", "--platform", "mtn", "--mode", "test", "--out", str(tmp_path))
    shop.json(*base, "--collect", "3.00", "--from", NUMBERS["mtn"])
    (payment,) = asyncio.run(database.fetch("SELECT id::text, mode, status, attempt, amount_minor FROM payments"))
    assert (payment["mode"], payment["status"], payment["attempt"], payment["amount_minor"]) == (
        "test",
        "SUCCESSFUL",
        1,
        300,
    )
    told = asyncio.run(
        database.fetch("SELECT type, actor FROM events WHERE subject_id = $1 ORDER BY id", payment["id"])
    )
    assert [row["type"] for row in told] == ["payment.created", "payment.accepted", "payment.succeeded"]
    assert {row["actor"] for row in told} == {"operator:cli"}
    assert asyncio.run(database.value("SELECT count(*) FROM ledger_entries WHERE payment_id = $1", payment["id"])) == 2


def test_a_code_that_no_table_lists_is_told(shop: Cli, operators: TalkativeOperators, tmp_path: Path) -> None:
    """No log of a command tells it, and the file keeps known words alone."""
    operators.change("airtel", {"paid_code": "1099"})
    base = ("accounts", "record", "shop", "--platform", "airtel", "--mode", "test", "--out", str(tmp_path))
    asked = (*base, "--collect", "3.00", "--from", NUMBERS["airtel"])
    assert shop.run(*asked).stdout.count("A code that no table lists: DP00800001099\n") == 1
    document = shop.json(*asked)
    assert document["unlisted"] == ["DP00800001099"]
    payment = document["payment"]["id"]
    assert shop.json("payments", "check", payment)["unlisted"] == "DP00800001099"
    assert "A code that no table lists: DP00800001099\n" in shop.text("payments", "check", payment)
    operators.change("airtel", {"paid_code": "1001"})
    assert shop.json(*asked)["unlisted"] == []
    assert "no table" not in shop.text("payments", "check", payment)


def test_files_are_new_ones_and_never_overwritten(shop: Cli, tmp_path: Path) -> None:
    (tmp_path / "mtn-token-200.json").write_text("mine")
    base = ("accounts", "record", "--platform", "mtn", "--check", "--out", str(tmp_path))
    names = [Path(path).name for _ in range(2) for path in shop.json(*base)["files"]]
    assert len(set(names)) == len(names)
    assert (tmp_path / "mtn-token-200.json").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*names, "mtn-token-200.json"])


def test_a_full_disk_is_told_in_one_sentence(
    shop: Cli, operators: TalkativeOperators, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    asked = ("accounts", "record", "--platform", "mtn", "--check", "--out", str(tmp_path))
    said, told = shop.run(*asked), shop.run(*asked, "--json")
    assert (said.exit_code, said.stdout, told.exit_code) == (1, "", 1)
    assert said.stderr.startswith(f"{tmp_path}: No space left on device.\n")
    assert json.loads(told.stdout)["error"] == {"code": "file", "detail": f"{tmp_path}: No space left on device."}
    assert list(tmp_path.iterdir()) == []


def test_what_is_wrong_is_told_in_one_sentence_and_nothing_is_asked_for(
    shop: Cli, operators: TalkativeOperators, tmp_path: Path
) -> None:
    out = ("--out", str(tmp_path))
    collect = ("--collect", "3.00", "--from", NUMBERS["mtn"])
    for code, *arguments in (
        ("usage", "shop", "main", "--check"),
        ("usage", "shop", "main", "--check", "--out", str(tmp_path / "nothing")),
        ("usage", "shop", "main", *out),
        ("usage", "shop", "main", "--check", *collect, *out),
        ("usage", "shop", "main", "--collect", "3.00", *out),
        ("usage", "shop", "main", "--platform", "mtn", "--check", *out),
        ("usage", "--platform", "mtn", *collect, *out),
        ("usage", "shop", "--check", *out),
        ("not_found", "shop", "main", "--check", *out),
        ("not_found", "nobody", "main", "--check", *out),
        ("not_found", "--payment", "019b76da-8c3c-7f20-8000-0a1b2c3d4e5f", *out),
        ("unprocessable", "--payment", "nonsense", *out),
        ("not_found", "--platform", "nobody", "--check", *out),
        ("not_found", "--platform", "nobody", "--payment", "019b76da-8c3c-7f20-8000-0a1b2c3d4e5f", *out),
        ("usage", "shop", "--payment", "019b76da-8c3c-7f20-8000-0a1b2c3d4e5f", *out),
        ("unconfirmed", "shop", "--platform", "mtn", *collect, *out),
        ("invalid_number", "shop", "--platform", "mtn", "--collect", "3.00", "--from", "123", *out),
        ("invalid_amount", "shop", "--platform", "mtn", "--collect", "-3", "--from", NUMBERS["mtn"], *out),
        (
            "no_route",
            "shop",
            "--platform",
            "mtn",
            "--mode",
            "test",
            "--collect",
            "3.00",
            "--from",
            NUMBERS["airtel"],
            *out,
        ),
    ):
        assert shop.refusal("accounts", "record", *arguments)[0] == code, arguments
    assert list(tmp_path.iterdir()) == []
    assert operators.requests == 0
    missing = ("--platform", "nobody")
    said = shop.refusal("accounts", "check", *missing)
    assert said == shop.refusal("accounts", "record", *missing, "--check", *out)
    assert "there are mtn" in said[1]


def test_a_merchant_with_accounts_of_its_own_does_not_pay_into_the_platforms(shop: Cli, tmp_path: Path) -> None:
    fields = {name.removeprefix("MTN_").lower(): value for name, value in shop.environment.items() if value is not None}
    names = {field.name for field in registry.BY_ID["mtn"].spec.fields}
    file = tmp_path / "mtn.json"
    file.write_text(json.dumps({name: value for name, value in fields.items() if name in names}))
    shop.environment["KOBIRI_MASTER_KEYS"] = f"one:{base64.b64encode(bytes(32)).decode()}"
    url = shop.environment["MTN_BASE_URL"] or ""
    shop.text("accounts", "set", "shop", "mtn", "--mode", "test", "--base-url", url, "--file", str(file))
    out = tmp_path / "out"
    out.mkdir()
    rest = ("--mode", "test", "--collect", "3.00", "--from", NUMBERS["mtn"], "--out", str(out))
    code, sentence = shop.refusal("accounts", "record", "shop", "--platform", "mtn", *rest)
    assert code == "no_route"
    assert "accounts of its own" in sentence
    document = shop.json("accounts", "record", "shop", "main", *rest)
    assert "SUCCESSFUL" in document["said"]
    assert document["files"]


def test_a_page_in_the_place_of_an_answer_is_left_out_whole(
    shop: Cli, operators: TalkativeOperators, tmp_path: Path
) -> None:
    operators.page = True
    base = ("accounts", "record", "shop", "--platform", "mtn", "--mode", "test", "--out", str(tmp_path))
    said = shop.run(*base, "--collect", "3.00", "--from", NUMBERS["mtn"])
    assert "SUCCESSFUL" in said.output  # it had arrived, and is asked about
    (one,) = recordings.read(tmp_path / "mtn-collection-send-502.json")
    assert one.answer is not None
    assert one.answer.body_text == "<html>left out</html>"
    assert one.means["outcome"] == "Unknown"
    asyncio.run(recordings.replay(registry.BY_ID["mtn"], one))
    assert_told_nothing("".join(path.read_text() for path in tmp_path.iterdir()), "mtn", operators)


def test_what_is_held_back_is_counted_and_told_with_the_reason(
    shop: Cli, operators: TalkativeOperators, tmp_path: Path
) -> None:
    shop.environment["ZAMTEL_THIRD_PARTY_ID"] = "collection"  # an identity that stands in every file
    base = ("accounts", "record", "shop", "--platform", "zamtel", "--mode", "test", "--out", str(tmp_path))
    asked = (*base, "--collect", "3.00", "--from", NUMBERS["zamtel"])
    assert shop.json(*asked)["held_back"] == [{"why": recording.TELLING, "count": 1}]
    said = shop.run(*asked).stdout
    assert f"In no file (1): {recording.TELLING}." in said
    assert "Nothing was answered" not in said
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_sent_is_failed_and_goes_by_no_other_account(
    shop: Cli, database: TestDatabase, tmp_path: Path
) -> None:
    """A worker that found it open would send it by pawaPay."""
    shop.environment["MTN_BASE_URL"] = "http://127.0.0.1:9/mtn"
    base = ("accounts", "record", "shop", "--platform", "mtn", "--mode", "test", "--out", str(tmp_path), "--wait", "5")
    done = shop.run(*base, "--collect", "3.00", "--from", NUMBERS["mtn"])
    assert done.exit_code == 0, done.output
    assert "is FAILED" in done.stderr
    assert "(provider_unavailable)" in done.stdout
    assert "no whole answer came: ClientConnectorError ECONNREFUSED" in done.stdout
    (row,) = asyncio.run(
        database.fetch(
            "SELECT status, next_run_at, account_id, provider, send_before <= created_at AS over FROM payments"
        )
    )
    assert tuple(row.values()) == ("FAILED", None, None, "mtn", True)


@pytest.mark.parametrize("during", ["send", "wait"])
def test_ctrl_c_leaves_the_payment_to_the_worker_and_the_files_so_far(
    shop: Cli, operators: TalkativeOperators, database: TestDatabase, tmp_path: Path, during: str
) -> None:
    operators.slow_s = 2.0 if during == "send" else 0.0
    arguments = ("accounts", "record", "shop", "--platform", "mtn", "--mode", "test", "--out", str(tmp_path))
    environment = {name: value for name, value in shop.environment.items() if value is not None}
    with subprocess.Popen(
        [sys.executable, "-m", "kobiri", *arguments, "--collect", "3.00", "--from", "0960000453"],  # nobody answers
        env={**os.environ, **environment}, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as running:  # fmt: skip
        assert running.stderr is not None
        if during == "send":
            assert operators.asked_for_money.wait(30)
        else:
            assert "on its way" in running.stderr.readline()
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=30)
    assert running.returncode == 130, err
    assert "Traceback" not in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mtn-collection-send-202.json", "mtn-token-200.json"]
    assert "mtn-collection-send-202.json" in out
    (row,) = asyncio.run(
        database.fetch(
            "SELECT id::text, status, accepted_at IS NOT NULL AS taken, next_run_at IS NOT NULL AS due FROM payments"
        )
    )
    assert f"Payment {row['id']} is PENDING; the worker follows it." in out
    assert (row["status"], row["taken"], row["due"]) == ("PENDING", True, True)


def lost(*_: object) -> Never:
    raise DatabaseUnavailable(retry_after_s=1)


def full(*_: object) -> Never:
    raise OSError(28, "No space left on device")


def faulty(*_: object) -> Never:
    raise ZeroDivisionError


@pytest.mark.parametrize(
    ("where", "trouble", "code", "status"),
    [
        ((os, "fsync"), full, "file", "SUCCESSFUL"),  # it is followed to its end all the same
        ((payments, "_answer"), lost, "database_unavailable", None),
        ((payments, "_answer"), faulty, "fault", None),
        ((reviews, "check"), lost, "database_unavailable", "PENDING"),
        ((reviews, "evidence"), full, None, "SUCCESSFUL"),
    ],
)
def test_whatever_goes_wrong_a_payment_that_is_there_is_named(
    shop: Cli, database: TestDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    where: tuple[object, str], trouble: Callable[..., Never], code: str | None, status: str | None,
) -> None:  # fmt: skip
    monkeypatch.setattr(*where, trouble)
    base = ("accounts", "record", "shop", "--platform", "mtn", "--mode", "test", "--out", str(tmp_path))
    asked = (*base, "--collect", "3.00", "--from", NUMBERS["mtn"])
    told, said = shop.run(*asked, "--json"), shop.run(*asked)
    assert (told.exit_code, said.exit_code) == (1, 1)
    first, second = (row["id"] for row in asyncio.run(database.fetch("SELECT id::text FROM payments ORDER BY id")))
    document = json.loads(told.stdout)
    assert code is None or document["error"]["code"] == code
    assert (document["payment"]["id"], document["payment"]["status"]) == (first, status)
    assert f"Payment {second}" in said.stderr


def test_what_was_refused_before_it_was_written_is_no_payment(shop: Cli, tmp_path: Path) -> None:
    base = ("accounts", "record", "shop", "--platform", "mtn", "--mode", "test", "--out", str(tmp_path), "--json")
    said = shop.run(*base, "--collect", "3.00", "--from", NUMBERS["airtel"])
    assert list(json.loads(said.stdout)) == ["error"]


def test_a_folder_that_takes_no_file_is_noticed_before_anything_moves(
    shop: Cli, operators: TalkativeOperators, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", full)
    base = ("accounts", "record", "shop", "--platform", "mtn", "--mode", "test", "--out", str(tmp_path))
    assert shop.refusal(*base, "--collect", "3.00", "--from", NUMBERS["mtn"])[0] == "file"
    assert operators.requests == 0
    assert list(tmp_path.iterdir()) == []
