"""Two processes never hold the same claim, and one that its holder left behind is taken over once."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from harness.errors import UserError
from harness.results import claims as protocol
from harness.results.claims import FOLDER, Claim, Claims, Holder


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path


def elsewhere(root: Path, lease: float = 3600.0) -> Claims:
    """The claims of a process of another machine, which no test waits for: a beat comes every ten minutes."""
    claims = Claims(root, "worker 1/2", lease)
    claims.holder = Holder("elsewhere", 12, "another machine", "worker 1/2")
    return claims


def expire(claim: Claim) -> None:
    """What the file of a claim looks like whose holder has been gone for two hours."""
    long_ago = os.stat(claim.path).st_mtime - 7200
    os.utime(claim.path, (long_ago, long_ago))


def test_one_of_two_gets_a_claim_and_the_other_after_it_has_ended(root: Path) -> None:
    one, two = elsewhere(root), elsewhere(root)
    first = one.take("a")
    assert first and first.held() and first.losses == 0
    assert two.take("a") is None and one.take("a") is None
    assert two.take("b") is not None
    first.end()
    assert not first.held()
    second = two.take("a")
    assert second and second.losses == 0, "an end is no loss"


def test_a_stale_claim_is_taken_over_and_its_holder_knows_when_it_comes_back(root: Path) -> None:
    slow, other = elsewhere(root), elsewhere(root)
    lost = slow.take("a")
    assert lost and other.take("a") is None
    expire(lost)
    found = other.take("a")
    assert found and found.held() and found.losses == 1
    slow.beat()
    assert not lost.held() and found.held() and slow.take("a") is None
    lost.end()
    assert found.held(), "who has lost a claim does not end that of another"
    found.end()
    assert os.listdir(root / FOLDER) == []


def test_a_claim_that_is_renewed_does_not_become_stale(root: Path) -> None:
    one, two = elsewhere(root), elsewhere(root)
    claim = one.take("a")
    assert claim
    expire(claim)
    one.beat()
    assert two.take("a") is None and claim.held()


def test_a_thread_renews_claims(root: Path) -> None:
    claims = elsewhere(root, lease=0.2)
    claim = claims.take("a")
    assert claim
    expire(claim)
    before = os.stat(claim.path).st_mtime
    for _ in range(600):
        if os.stat(claim.path).st_mtime > before:
            break
        threading.Event().wait(0.1)
    assert os.stat(claim.path).st_mtime > before
    claims.end()
    assert not claim.held()


def test_many_find_a_stale_claim_at_once_and_one_takes_it_over(root: Path) -> None:
    for turn in range(15):
        lost = elsewhere(root).take(f"a{turn}")
        assert lost
        expire(lost)
        start, found = threading.Barrier(8), []

        def look(turn: int = turn, start: threading.Barrier = start, found: list[Claim | None] = found) -> None:
            claims = elsewhere(root)
            start.wait()
            found.append(claims.take(f"a{turn}"))

        threads = [threading.Thread(target=look) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        holders = [claim for claim in found if claim]
        assert len(holders) == 1 and holders[0].held() and holders[0].losses == 1


def test_claims_that_end_and_begin_all_the_time_have_one_holder_at_a_time(root: Path) -> None:
    """Each holder adds one to a number in a file, which loses some if two do so at once."""
    counter, added = root / "counter", []
    counter.write_text("0")

    def work() -> None:
        claims = elsewhere(root)
        while len(added) < 60:
            if claim := claims.take("a"):
                counter.write_text(str(int(counter.read_text()) + 1))
                added.append(1)
                claim.end()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert int(counter.read_text()) == len(added)


def test_a_process_of_this_machine_that_was_killed_does_not_have_to_become_stale(root: Path) -> None:
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from harness.results.claims import Claims\n"
        "assert Claims(Path(sys.argv[1]), 'worker 2/2').take('a')\n"
        "os.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(root)]).returncode == -9
    (path,) = (root / FOLDER).iterdir()
    assert Holder.read(path).part == "worker 2/2" and Holder.read(path).gone is bool(protocol.this_machine())
    found = Claims(root, lease=3600.0).take("a")
    assert (found is not None) is bool(protocol.this_machine())


def test_others_are_those_who_are_there(root: Path) -> None:
    one, two, three = elsewhere(root), elsewhere(root), elsewhere(root)
    for claims, name in ((one, "worker-1"), (two, "worker-2"), (three, "other")):
        assert claims.take(name)
    assert [str(holder) for holder in one.others("worker-")] == ["process 12 on elsewhere as worker 1/2"]
    two.end()
    assert one.others("worker-") == []
    left = elsewhere(root).take("worker-3")
    assert left
    expire(left)
    assert one.others("worker-") == []


@pytest.mark.parametrize("content", [b"", b"[]", b'{"host": 3}', b"\xff", b"x" * 5000, b'{"process": "x"}'])
def test_a_claim_with_any_content_is_held_until_it_is_stale(root: Path, content: bytes) -> None:
    (root / FOLDER).mkdir()
    path = root / FOLDER / "a.7"
    path.write_bytes(content)
    assert Claims(root).take("a") is None
    os.utime(path, (1.0, 1.0))
    found = Claims(root).take("a")
    assert found and found.losses == 7


@pytest.mark.parametrize("text", ["soon", "0", "-3", "nan", "inf"])
def test_a_lease_that_is_no_length_is_a_mistake(root: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_LEASE", text)
    with pytest.raises(UserError, match=f"HARNESS_LEASE is '{text}'"):
        Claims(root)


def test_a_folder_that_cannot_be_written_is_a_mistake_with_a_remedy(root: Path) -> None:
    (root / FOLDER).write_text("a file")
    with pytest.raises(UserError, match=r"cannot write .*--out"):
        Claims(root).take("a")


class Protocol(RuleBasedStateMachine):
    """Three processes of other machines take, end and renew a claim, fall silent and come back, in any order."""

    workers = st.integers(0, 2)

    @initialize()
    def begin(self) -> None:
        self.owner = tempfile.TemporaryDirectory()
        self.processes = [elsewhere(Path(self.owner.name)) for _ in range(3)]
        self.claims: list[Claim | None] = [None] * 3

    @rule(who=workers)
    def take(self, who: int) -> None:
        if self.claims[who] is None or not self.claims[who].held():  # type: ignore[union-attr]
            before = {claim.path for claim in self.claims if claim and claim.held() and not self._expired(claim)}
            found = self.processes[who].take("a")
            assert not (found and before), "a claim was taken that another holds and renews"
            if found is not None:
                self.claims[who] = found
            elif not before:
                assert any(self.processes[0].numbers().values())

    @rule(who=workers)
    def end(self, who: int) -> None:
        if claim := self.claims[who]:
            claim.end()
            self.claims[who] = None

    @rule(who=workers)
    def fall_silent(self, who: int) -> None:
        if (claim := self.claims[who]) and claim.path.exists():
            expire(claim)

    @rule(who=workers)
    def renew(self, who: int) -> None:
        self.processes[who].beat()

    @invariant()
    def at_most_one_holds_it(self) -> None:
        assert sum(claim is not None and claim.held() for claim in getattr(self, "claims", [])) <= 1

    def teardown(self) -> None:
        if hasattr(self, "owner"):
            for process in self.processes:
                process.end()
            self.owner.cleanup()

    @staticmethod
    def _expired(claim: Claim) -> bool:
        return Claims(claim.path.parents[1], lease=3600.0)._stale(claim.path) is not None


TestProtocol = Protocol.TestCase
TestProtocol.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)
