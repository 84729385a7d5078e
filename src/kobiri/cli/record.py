"""kobiri accounts record: real exchanges with a provider as files, without secrets and numbers."""

import errno
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from kobiri import app as wiring
from kobiri.cli.accounts import Mode, ModeOption, spec_of
from kobiri.cli.output import ACTOR, UNLISTED, Json, emit, fail, plain_errors, run
from kobiri.config import Settings
from kobiri.domain.errors import Unprocessable
from kobiri.domain.ids import PaymentId, parse_id
from kobiri.domain.money import Money
from kobiri.domain.msisdn import Msisdn
from kobiri.domain.payment import Mode as PaymentMode
from kobiri.domain.payment import Payment
from kobiri.services import recording
from kobiri.services.payments import Order
from kobiri.services.recording import DESCRIPTION, Chosen, Recorder, Recording

INTERRUPTED = 130
MOST_OF_ONE_NAME = 1_000
READ_THEM = "Read each file before you send it: what is left of the exchange stands there, and nothing else."


@dataclass
class Session:
    """What one command has to tell. Recordings go into a folder: a new file for each, readable for its owner alone."""

    path: Path
    json: bool
    written: list[Path] = field(default_factory=list)
    held_back: Counter[str] = field(default_factory=Counter)
    unlisted: Counter[str] = field(default_factory=Counter)
    trouble: OSError | None = None
    payment_id: PaymentId | None = None
    payment: Payment | None = None

    def try_out(self) -> None:
        """Make a file and take it away, before anything moves. Raises OSError that names the folder."""
        try:
            descriptor, temporary = tempfile.mkstemp(prefix=".recording.", dir=self.path)
            os.close(descriptor)
            try:
                os.link(temporary, f"{temporary}.link")
                Path(f"{temporary}.link").unlink()
            finally:
                Path(temporary).unlink()
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from None

    def keep(self, one: Recording) -> None:
        """Write a file whole or not at all, under a name that was free."""
        try:
            self._keep(one)
        except OSError as error:
            self.trouble = OSError(error.errno, error.strerror, str(self.path))
            self.hold_back(f"the file cannot be written: {error.strerror}")

    def hold_back(self, why: str) -> None:
        """Count what is in no file."""
        self.held_back[why] += 1

    def hear_new(self, code: str) -> None:
        """Count a code that no table lists; the log of this command is thrown away."""
        self.unlisted[code] += 1

    def may_exist(self, payment_id: PaymentId | None) -> None:
        """Whatever happens now, the payment can be named."""
        self.payment_id = payment_id

    def see(self, payment: Payment) -> None:
        """Remember how the payment stands."""
        self.payment_id, self.payment = payment.id, payment

    @property
    def known(self) -> str:
        """What is known of the payment; empty where there is none."""
        if self.payment is not None:
            return recording.state(self.payment)
        if self.payment_id is not None:
            return f"Payment {self.payment_id} may be there: kobiri payments show {self.payment_id} tells."
        return ""

    def document(self) -> dict[str, object]:
        """All of it, for --json."""
        seen = self.payment
        payment = {
            "id": self.payment_id,
            "status": seen and seen.status.value,  # null: nobody knows whether it is there
            "failure_code": seen and seen.failure_code,
        }
        return {
            "payment": payment if self.payment_id else None,
            "files": [str(path) for path in self.written],
            "held_back": [{"why": why, "count": count} for why, count in self.held_back.items()],
            "unlisted": list(self.unlisted),
        }

    def tell(self, console: Console, said: str) -> None:
        """All of it, for people."""
        if said:
            console.print(said, highlight=False)
        for path in self.written:
            console.print(f"  {path}", highlight=False)
        for why, count in self.held_back.items():
            console.print(f"In no file ({count}): {why}.", highlight=False)
        for code in self.unlisted:
            console.print(f"{UNLISTED}: {code}", highlight=False)
        if self.written:
            console.print(READ_THEM)

    def beside(self) -> dict[str, object]:
        """What an error must not hide."""
        return self.document() if self.payment_id or self.written or self.held_back else {}

    def say(self, line: str) -> None:
        """For people alone, while they wait."""
        if not self.json:
            typer.echo(line, err=True)

    def _keep(self, one: Recording) -> None:
        descriptor, temporary = tempfile.mkstemp(prefix=".recording.", dir=self.path)  # mode 0600
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(one.text)
                file.flush()
                os.fsync(descriptor)
            self.written.append(self._link(temporary, one.label))
        finally:
            Path(temporary).unlink()

    def _link(self, temporary: str, label: str) -> Path:
        for number in range(1, MOST_OF_ONE_NAME):
            path = self.path / f"{label}{'' if number == 1 else f'-{number}'}.json"
            try:
                os.link(temporary, path)
            except FileExistsError:
                continue
            return path
        raise FileExistsError(errno.EEXIST, "It holds too many recordings of this name")


def record(
    slug: Annotated[str | None, typer.Argument(help="The merchant's short name.")] = None,
    name: Annotated[str | None, typer.Argument(help="The merchant's account; none with --platform.")] = None,
    out: Annotated[Path | None, typer.Option(help="The folder for the files; it must exist.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Record the account's check. Nothing moves.")] = False,
    collect: Annotated[
        str | None, typer.Option(metavar="AMOUNT", help="Record a payment of this amount, such as 1.00.")
    ] = None,
    from_: Annotated[
        str | None, typer.Option("--from", metavar="NUMBER", help="Who pays: your own phone, it will ask for the PIN.")
    ] = None,
    payment: Annotated[
        str | None, typer.Option(metavar="ID", help="Record a question about this payment, and its callbacks.")
    ] = None,
    platform: Annotated[
        str | None, typer.Option(metavar="PROVIDER", help="The platform's own account, as the environment has it.")
    ] = None,
    mode: ModeOption = Mode.live,
    network: Annotated[str | None, typer.Option(help="The wallet's operator, where the number does not tell.")] = None,
    wait: Annotated[int, typer.Option(min=5, max=3_600, help="So many seconds for the payer to answer.")] = 180,
    yes: Annotated[bool, typer.Option("--yes", help="Ask nothing before real money moves.")] = False,
    json: Json = False,
) -> None:
    """Write real exchanges with a provider as files, without secrets, names and numbers, for us to learn from.

    --check moves nothing. --collect makes an ordinary payment of the merchant by this account alone, with its events
    and its place in the books, and follows it to its end. --payment asks about a payment that is there already.

    Example: kobiri accounts record kitwe-books main --check --out recorded

    Example: kobiri accounts record kitwe-books main --collect 1.00 --from 0977123456 --out recorded

    Example: kobiri accounts record kitwe-books --platform mtn --collect 1.00 --from 0967123456 --out recorded

    Example: kobiri accounts record --payment 019b76da-8c3c-7f20-8000-0a1b2c3d4e5f --out recorded
    """
    wrong = _wrong(slug, name, out, platform, check=check, collect=collect, payer=from_, payment=payment)
    if wrong is not None:
        fail(json, "usage", wrong)
    assert out is not None
    session = Session(out, json)
    with plain_errors(json):
        if platform is not None:
            spec_of(platform)
        session.try_out()
    with _naming_the_payment(json, session):
        if payment is not None:
            said = run(
                json, lambda settings: _again(settings, session, payment, slug, mode, name, platform), session.beside
            )
        elif collect is not None and from_ is not None:
            with plain_errors(json):
                payer = Msisdn.parse(from_)
            chosen, currency = run(json, lambda settings: _chosen(settings, slug, mode, name, platform))
            with plain_errors(json):
                money = Money.read(collect, currency)
            if mode is Mode.live and not yes:
                _confirm(json, chosen, money, payer)
            asked = Asked(chosen, mode.value, money, payer, network)
            said = run(json, lambda settings: _collect(settings, session, asked, wait), session.beside)
        else:
            said = run(json, lambda settings: _check(settings, session, slug, mode, name, platform), session.beside)
        _tell(json, session, said)


@contextmanager
def _naming_the_payment(json: bool, session: Session) -> Iterator[None]:
    """Whichever way out is taken, a payment that may be there is named, and what was written.

    An error's JSON document says so itself: see `Session.beside`.
    """
    errors = Console(stderr=True, soft_wrap=True, markup=False)
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("Stopped.", err=True)
        emit(json, {"said": session.known, **session.document()}, lambda console: session.tell(console, session.known))
        raise typer.Exit(INTERRUPTED) from None
    except typer.Exit:
        if not json:
            session.tell(errors, session.known)
        raise
    except Exception as error:  # a fault of ours: its traceback follows
        if json:
            emit(json, {"error": {"code": "fault", "detail": type(error).__name__}, **session.document()}, errors.print)
        else:
            session.tell(errors, session.known)
        raise


@dataclass(frozen=True)
class Asked:
    """A payment that shall be recorded."""

    chosen: Chosen
    mode: PaymentMode
    money: Money
    payer: Msisdn
    network: str | None


async def _check(
    settings: Settings, session: Session, slug: str | None, mode: Mode, name: str | None, platform: str | None
) -> str:
    async with wiring.operating(settings, Recorder) as gateway:
        chosen = await recording.choose(gateway.db, slug, mode.value, name, platform)
        trouble = await recording.check(gateway, chosen, session)
    return "The provider takes this account." if trouble is None else f"The provider does not take it: {trouble}"


async def _chosen(
    settings: Settings, slug: str | None, mode: Mode, name: str | None, platform: str | None
) -> tuple[Chosen, str]:
    async with wiring.operating(settings) as gateway:
        chosen = await recording.choose(gateway.db, slug, mode.value, name, platform)
        return chosen, await recording.currency(gateway, chosen)


async def _collect(settings: Settings, session: Session, asked: Asked, wait: int) -> str:
    only = (asked.chosen.provider, asked.chosen.account_id)
    async with wiring.operating(settings, Recorder, only) as gateway:
        payment = await recording.collect(
            gateway, asked.chosen, Order(asked.money, asked.payer, asked.network, description=DESCRIPTION), asked.mode,
            session, wait_s=wait, actor=ACTOR,
        )  # fmt: skip
    return recording.state(payment)


async def _again(
    settings: Settings, session: Session, payment: str, slug: str | None, mode: Mode, name: str | None,
    platform: str | None,
) -> str:  # fmt: skip
    known = parse_id(payment)
    if known is None:
        raise Unprocessable(f"{payment[:60]!r} is not a payment's id.")
    async with wiring.operating(settings, Recorder) as gateway:
        chosen = await recording.choose(gateway.db, slug, mode.value, name, platform) if slug or platform else None
        return recording.state(await recording.again(gateway, PaymentId(known), chosen, session, actor=ACTOR))


def _wrong(  # noqa: PLR0911  # one return for each thing that may be wrong
    slug: str | None, name: str | None, out: Path | None, platform: str | None,
    *, check: bool, collect: str | None, payer: str | None, payment: str | None,
) -> str | None:  # fmt: skip
    """What is wrong with the command line, in one sentence."""
    if out is None or not out.is_dir():
        return (
            "Name a folder that exists by --out." if out is None else f"{out}: there is no such folder; make it first."
        )
    if check + (collect is not None) + (payment is not None) != 1:
        return "Say what to record: --check, --collect with --from, or --payment."
    if (collect is None) != (payer is None):
        return "--collect and --from belong together."
    if platform is not None and name is not None:
        return "Name a merchant's account, or a provider by --platform; not both."
    if collect is not None and slug is None:
        return "A payment is a merchant's: name one."
    if payment is not None and platform is None and (slug is None) != (name is None):
        return "Name the merchant's account too, or leave the merchant out: the payment's id says whose it is."
    if payment is None and platform is None and name is None:
        return "Name a merchant and an account, or a provider by --platform."
    return None


def _confirm(json: bool, chosen: Chosen, money: Money, payer: Msisdn) -> None:
    """Ask before real money moves; who is no person must say --yes."""
    if json or not sys.stdin.isatty():
        fail(json, "unconfirmed", "This moves real money: say --yes, or --mode test where none moves.")
    whose = "the platform's account" if chosen.account_id is None else "this account"
    merchant = chosen.tenant.slug if chosen.tenant else ""
    typer.echo(
        f"This moves real money: {payer.masked} will be asked for {money} {money.currency}, which go to {whose} at"
        f" {chosen.provider}.\nIt is an ordinary payment of {merchant}: it stands in its lists, events and books.",
        err=True,
    )
    typer.confirm("Go on?", abort=True, err=True)


def _tell(json: bool, session: Session, said: str) -> None:
    if session.trouble is not None:
        with plain_errors(json, session.beside):
            raise session.trouble

    def human(console: Console) -> None:
        session.tell(console, said)
        if not session.written and not session.held_back:
            console.print("Nothing was answered, so there is no file.")

    emit(json, {"said": said, **session.document()}, human)
