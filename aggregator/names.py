"""Names to small integers and back."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

#: In place of a name that was forgotten; no name is empty.
RETIRED = ""


class Names:
    """Each distinct name has a code: 0, 1, 2 … in the order of their first appearance."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._names = list(names)
        self._codes = {name: code for code, name in enumerate(self._names)}

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, code: int) -> str:
        return self._names[code]

    def code(self, name: str) -> int | None:
        return self._codes.get(name)

    def intern(self, names: Sequence[str]) -> NDArray[np.int64]:
        """The code of each name, new ones added."""
        codes = list(map(self._codes.get, names))
        if None in codes:
            codes = [
                self._intern_one(name) if code is None else code
                for name, code in zip(names, codes, strict=True)
            ]
        return np.array(codes, np.int64)

    def _intern_one(self, name: str) -> int:
        code = self._codes.setdefault(name, len(self._names))
        if code == len(self._names):
            self._names.append(name)
        return code

    def retire(self, code: int) -> None:
        """Forgets a name; its code is not given again."""
        del self._codes[self._names[code]]
        self._names[code] = RETIRED

    def to_list(self) -> list[str]:
        return list(self._names)
