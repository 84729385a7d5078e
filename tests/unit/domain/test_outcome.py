from dataclasses import replace

from kobiri.domain.money import Money
from kobiri.domain.outcome import Accepted, Succeeded

PAYER = "260961234567"


def test_a_success_in_a_log_line_names_no_payer() -> None:
    success = Succeeded("TX1", Money(700, "ZMW"), PAYER)
    assert PAYER not in f"{success!r} {success} {[success]}"
    assert "TX1" in repr(success)
    assert success != replace(success, payer=None)


def test_nobody_is_called_back_unless_it_is_said() -> None:
    assert not Accepted().calls_back
