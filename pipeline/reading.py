"""Reading: a batch's files as processed blocks, each file within its budget. Asks no database.

Small files that share a header share a block; large ones are streamed. A file that costs more than
it may is singled out here, so that it neither holds up nor takes down those beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np

from pipeline import metrics
from pipeline.ahead import ahead
from pipeline.budget import Bounds, Budget, refused_files
from pipeline.config import Settings
from pipeline.contract import Contract
from pipeline.core.checks import TooManyReasons
from pipeline.core.process import Processed, process
from pipeline.core.records import Block, Segment
from pipeline.core.rejected import future_files
from pipeline.errors import (
    ClockDoubted,
    DiskTrouble,
    FileChanged,
    FileRefused,
    Stopped,
    Transient,
)
from pipeline.files import read
from pipeline.records import Content
from pipeline.transaction import Batch, Busy

# Each takes more than half a kilobyte, and several blocks are in memory at a time.
_MOST_REASONS = 10_000
# Of a batch of small files, the rejected rows that are held until it is loaded, in bytes.
_MOST_HELD = 16 * 2**20
_REASON_BYTES = 512
_ROW_BYTES = 32
_TOGETHER = 2  # blocks: sorted together they are inserted faster; more would take too much memory


@dataclass(frozen=True, slots=True)
class Reading:
    """Reads and processes the files of batches.

    Attributes:
        settings: the settings in force.
        contract: what is accepted.
        go_on: called now and then; what it raises ends the work.
    """

    settings: Settings
    contract: Contract
    go_on: Callable[[], None]

    def parse(self, batch: Batch, position: int, room: int) -> int:
        """Recognise a file; hold its text if it is small, and return how many bytes that takes.

        Args:
            batch: the file's batch; what is found is noted there.
            position: the file's position in it.
            room: the most bytes of text to hold.
        """
        content = batch.files[position]
        try:
            stream = self._blocks(content, position, Budget(self._bounds))
            first = next(stream)
            if content.held is None or len(first.text) > room or next(stream, None) is not None:
                batch.large.append(position)
                batch.heavy |= content.held is not None
            else:
                batch.small.append(first)
                batch.files[position] = replace(content, held=None)
                return len(first.text)
        except FileRefused as refusal:
            batch.refused[position] = refusal
        except Stopped:
            raise
        except Transient as trouble:
            batch.left[position] = trouble
        return 0

    def process_small(self, batch: Batch) -> None:
        """Process the files that share blocks; those that cost more than they may are refused."""
        again = True
        while again:
            again = False
            members = [block.segments[0].file for block in batch.small]
            shared = set()
            for part in self._parts(batch, members):
                if not isinstance(part, Block):
                    continue
                shared.add(_whose(part))
                if not _is_processed(batch, part):
                    self.go_on()
                    again |= not self._process_shared(batch, part)
            for files in batch.processed.keys() - shared:
                del batch.processed[files]  # one of them was refused: the others share other blocks
            batch.small = [b for b in batch.small if b.segments[0].file not in batch.refused]

    def _process_shared(self, batch: Batch, block: Block) -> bool:
        """Process a block of small files; say whether all of them may be loaded as they are."""
        files = _whose(block)
        try:
            processed = self._process(batch, block, Budget(self._bounds, len(block.text)))
        except FileRefused as refusal:
            if len(files) == 1:
                batch.refused[files[0]] = refusal
            batch.apart.update(files)  # each has to answer for itself
            return False
        except TooManyReasons:
            # Processed in pieces when its turn comes, since only then there is room for them.
            batch.apart.update(files)
            batch.heavy = True
            if len(files) == 1:
                batch.unheld.add(files)
            return len(files) == 1
        refused = self._refused(batch, processed)
        batch.refused |= refused
        if not refused:
            _hold(batch, files, processed)
        return not refused

    def _refused(self, batch: Batch, processed: Processed) -> dict[int, FileRefused]:
        """Return which files leave more in quarantine than they may, by their first block alone."""
        sizes = {segment.file: batch.files[segment.file].size for segment in processed.segments}
        read_, text = processed.read, processed.text_bytes
        return refused_files(self._bounds, sizes, read_, processed.rejected_rows, text)

    def processed(
        self, batch: Batch, members: Sequence[int], busy: Busy
    ) -> Generator[list[Processed]]:
        """Yield files by one block or several until we are asked to stop; say that it goes on.

        Args:
            batch: the files' batch.
            members: their positions.
            busy: returns what the database is busy with, if anything.
        """
        budgets: dict[int, Budget] = {}
        begins: dict[int, int] = {}  # large file → the line that its first block begins with

        def work(block: Block) -> Processed | list[Block]:
            files = _whose(block)
            if processed := batch.processed.get(files):
                _hold_undecided(batch, processed)
                return processed
            if refusal := batch.refused.get(files[0]):
                raise refusal  # read ahead, before the block in front of it was processed
            try:
                processed = self._process(batch, block, budgets[files[0]])
                if begins.get(files[0]) == block.segments[0].first_line:
                    # Rubbish from its start is not read on, and does not reach the database.
                    for refusal in self._refused(batch, processed).values():
                        raise refusal
            except FileRefused as refusal:
                if len(files) == 1:
                    batch.refused[files[0]] = refusal
                batch.apart.update(files)  # each has to answer for itself
                raise
            except TooManyReasons as many:
                return list(cut(block, -(-many.reasons // _MOST_REASONS)))
            _hold_undecided(batch, processed)
            return processed

        def in_pieces(pieces: list[Block]) -> Iterator[Processed]:
            for piece in pieces:
                result = work(piece)
                if isinstance(result, Processed):
                    yield result
                else:
                    yield from in_pieces(result)

        text = self._text(batch, members, budgets, begins)
        with closing(ahead(text, work, self.settings.load.workers, _TOGETHER, busy)) as processed:
            for results in processed:
                self.go_on()
                blocks: list[Processed] = []
                for result in results:
                    if isinstance(result, Processed):
                        blocks.append(result)
                        continue
                    if blocks:
                        yield blocks
                        blocks = []
                    # One at a time, and none ahead: there is no room for more.
                    for piece in in_pieces(result):
                        yield [piece]
                if blocks:
                    yield blocks

    def _process(self, batch: Batch, block: Block, budget: Budget) -> Processed:
        with budget.at_work():
            now = batch.present.now
            return process(
                block,
                self.contract,
                now,
                self._check(budget),
                _MOST_REASONS,
                summaries=True,
                stage=metrics.stage,
            )

    def _check(self, budget: Budget) -> Callable[[], None]:
        def check() -> None:
            self.go_on()
            budget.check()

        return check

    def _blocks(self, content: Content, position: int, budget: Budget) -> Iterator[Block]:
        limits = read.Limits.of(self.settings)
        stream = read.blocks(content, position, self.contract, limits, self._check(budget))
        while True:
            with budget.at_work():
                block = next(stream, None)
            if block is None:
                return
            budget.grow(len(block.text))
            yield block

    @property
    def _bounds(self) -> Bounds:
        return Bounds.of(self.settings.limits)

    def _text(
        self,
        batch: Batch,
        members: Sequence[int],
        budgets: dict[int, Budget],
        begins: dict[int, int],
    ) -> Generator[Block]:
        """Yield the text of some files of a batch, block by block, as often as asked."""
        for part in self._parts(batch, members):
            if isinstance(part, Block):
                budgets[_whose(part)[0]] = Budget(self._bounds, len(part.text))
                yield part
                continue
            budgets[part] = Budget(self._bounds)
            try:
                for block in self._blocks(batch.files[part], part, budgets[part]):
                    begins.setdefault(part, block.segments[0].first_line)
                    yield block
            except FileRefused as refusal:
                batch.refused[part] = refusal
                raise
            except (FileChanged, DiskTrouble) as trouble:
                batch.left[part] = trouble
                raise FileChanged(str(trouble)) from trouble

    def _parts(self, batch: Batch, members: Sequence[int]) -> Iterator[Block | int]:
        """Yield blocks of small files put together, and the positions of large files.

        In the files' order as far as it decides which of two readings is the first, so that what
        is loaded does not depend on which files happen to share a batch.
        """
        small = {block.segments[0].file: block for block in batch.small}
        waiting: list[Block] = []
        for position in sorted(members):
            alone = position in batch.large or position in batch.apart
            if alone:
                yield from read.merged(waiting, self.settings.load.block_bytes)
                waiting = []
            if position in batch.large:
                yield position
            elif block := small.get(position):
                if alone:
                    yield block
                else:
                    waiting.append(block)
        yield from read.merged(waiting, self.settings.load.block_bytes)


def cut(block: Block, pieces: int) -> Iterator[Block]:
    """Cut a block into so many of about the same number of lines, or fewer."""
    ends = np.flatnonzero(np.frombuffer(block.text, np.uint8) == ord("\n")) + 1
    most = -(-len(ends) // pieces)
    segments = list(block.segments)
    start = 0
    for at in range(0, len(ends), most):
        end, room = int(ends[at : at + most][-1]), len(ends[at : at + most])
        own: list[Segment] = []
        while room and segments:
            segment = segments.pop(0)
            lines = min(room, segment.lines)
            own.append(replace(segment, lines=lines))
            room -= lines
            if lines < segment.lines:
                first, left = segment.first_line + lines, segment.lines - lines
                segments.insert(0, replace(segment, first_line=first, lines=left, opens=False))
        yield replace(block, text=block.text[start:end], segments=tuple(own))
        start = end


def _hold(batch: Batch, files: tuple[int, ...], processed: Processed) -> None:
    """Hold what was processed, unless too much is held: it is done again when its turn comes."""
    rejected = processed.rejected_rows
    weight = _REASON_BYTES * sum(map(len, rejected.told)) + _ROW_BYTES * len(rejected)
    if batch.weighed + weight > _MOST_HELD:
        batch.heavy = True
        batch.unheld.add(files)
    else:
        batch.weighed += weight
        batch.processed[files] = processed


def _is_processed(batch: Batch, block: Block) -> bool:
    return _whose(block) in batch.processed or _whose(block) in batch.unheld


def _hold_undecided(batch: Batch, processed: Processed) -> None:
    """Leave files whose rows may be in the future or not, while that cannot be known.

    Raises:
        FileChanged: there are such files; noted in the batch.
    """
    if batch.present.certain:
        return
    undecided = future_files(processed.rejected_rows, batch.present.now)
    for position in undecided:
        batch.left[position] = ClockDoubted(
            f"{batch.rows[position].name}: has rows later than {batch.present.now:%Y-%m-%d %H:%M} "
            f"UTC, and whether they are in the future cannot be decided: {batch.present.doubt}; "
            "it waits until the clock is set"
        )
    if undecided:
        raise FileChanged(str(batch.left[undecided[0]]))


def _whose(block: Block) -> tuple[int, ...]:
    """Return the files that share a block, by their positions."""
    return tuple(dict.fromkeys(segment.file for segment in block.segments))
