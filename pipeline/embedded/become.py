"""Give up root for good: become an ordinary account, with no capability and no way back.

The standard library alone, all of it imported above the first function: after the change the
interpreter's own files may be out of reach.
"""

from __future__ import annotations

import ctypes
import os
import sys

__all__ = ["become"]

# linux/prctl.h
_PR_SET_DUMPABLE = 4
_PR_SET_KEEPCAPS = 8
_PR_CAPBSET_DROP = 24
_PR_SET_SECUREBITS = 28
_PR_SET_NO_NEW_PRIVS = 38
_PR_GET_NO_NEW_PRIVS = 39
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
# linux/capability.h
_CAPABILITY_VERSION_3 = 0x20080522
_CAPABILITIES = 64
# keyctl(2) has no function in libc, and a number of its own on each kind of machine.
_KEYCTL = {"x86_64": 250, "aarch64": 219, "riscv64": 219, "ppc64le": 271, "s390x": 280}
_KEYCTL_JOIN_SESSION_KEYRING = 1


def become(uid: int, gid: int) -> None:
    """Become the account, for good.

    Supplementary groups, saved ids, all five capability sets and the session keyring are given up,
    and no program that is started later can gain privileges again.

    Args:
        uid: id of the user, never root's.
        gid: id of the group.

    Raises:
        OSError: the kernel does not allow it, or something of root's would remain.
    """
    if uid == 0:
        message = "root is not an account to become"
        raise OSError(message)
    if sys.platform != "linux":
        message = "privileges are given up on Linux only"
        raise OSError(message)
    libc = ctypes.CDLL(None, use_errno=True)
    _forgo_what_could_return(libc)
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    _capability_call(libc.capset, [0] * 6)
    _prctl(libc, _PR_SET_NO_NEW_PRIVS, 1)
    _prctl(libc, _PR_SET_DUMPABLE, 0)  # our memory has root's environment: not for the account
    _check(libc, uid, gid)


def _forgo_what_could_return(libc: ctypes.CDLL) -> None:
    """Undo settings by which capabilities outlive a change of user.

    Each may be refused (a container without CAP_SETPCAP): `_check` looks at what has come of it.
    """
    _prctl(libc, _PR_SET_SECUREBITS, 0)
    _prctl(libc, _PR_SET_KEEPCAPS, 0)
    _prctl(libc, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    effective, permitted, _, *upper = _capability_call(libc.capget, [0] * 6)
    # The inheritable ones alone would survive the change of user.
    _capability_call(libc.capset, [effective, permitted, 0, upper[0], upper[1], 0])
    for capability in range(_CAPABILITIES):
        _prctl(libc, _PR_CAPBSET_DROP, capability)
    if number := _KEYCTL.get(os.uname().machine):
        libc.syscall(ctypes.c_long(number), ctypes.c_long(_KEYCTL_JOIN_SESSION_KEYRING), None)


def _check(libc: ctypes.CDLL, uid: int, gid: int) -> None:
    """Raise OSError unless nothing of root is left."""
    left = []
    if os.getresuid() != (uid,) * 3 or os.getresgid() != (gid,) * 3:
        left.append("user or group ids")
    if set(os.getgroups()) - {gid}:
        left.append("groups")
    if any(_capability_call(libc.capget, [0] * 6)):
        left.append("capabilities")
    if _prctl(libc, _PR_GET_NO_NEW_PRIVS) != 1:
        left.append("programs that gain privileges")
    if left:
        message = f"something of root's would remain: {', '.join(left)}"
        raise OSError(message)


def _prctl(libc: ctypes.CDLL, *values: int) -> int:
    padded = (*values, *(0,) * (5 - len(values)))
    return int(libc.prctl(*map(ctypes.c_ulong, padded)))


def _capability_call(call: ctypes._NamedFuncPointer, values: list[int]) -> list[int]:
    """Call capget(2) or capset(2); return the sets: effective, permitted, inheritable, twice."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)(*values)
    if call(header, sets) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return list(sets)
