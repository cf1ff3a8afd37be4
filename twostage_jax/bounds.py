"""How much of somebody's file is expanded: as much as its header may honestly announce."""

from pathlib import Path

from twostage_jax.errors import UserError

MIB = 2**20
# Photographs shrink by 2, scans of digits by 5, drawings by 30; deflate reaches 1,032 on zeros.
RATIO = 100
ALWAYS = 64 * MIB  # what any machine has room for


def check_expanded(where: Path | str, announced: int, compressed: int, instead: str) -> None:
    """Raise `UserError` where a file announces more bytes than its own size makes credible.

    To be called before anything is allocated.

    Args:
        where: the file.
        announced: bytes after expansion, as its header says.
        compressed: bytes it has.
        instead: how the user can go on if the file is honest.
    """
    if announced > max(ALWAYS, RATIO * compressed):
        raise UserError(
            f"{where} has {compressed:,} bytes and announces {announced:,}, more than {RATIO} "
            f"times as many: if you trust it, {instead}"
        )
