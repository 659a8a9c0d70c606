"""What NVRTC makes of emitted code, on a machine without a GPU: PTX, and the code of a GPU.

It needs NVRTC and CUDA's headers (wheels nvidia-cuda-nvrtc and nvidia-cuda-runtime, with -cu12 at
the end of their names for CUDA 12) and the disassembler (nvidia-cuda-nvdisasm).
"""

import ctypes
import functools
import re
import shutil
import struct
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from instep.engines.cuda.compile import OPTIONS
from instep.graph.dtypes import DTYPES

#: All for which NVRTC 13 compiles; that of CUDA 12 does not know each of them.
ALL_ARCHITECTURES = (
    *("sm_75", "sm_80", "sm_86", "sm_89", "sm_90"),
    *("sm_100", "sm_103", "sm_110", "sm_120", "sm_121"),
)

# Attributes in a cubin's section .nv.info.
_REGISTER_COUNT, _MIN_STACK_SIZE = 0x2F, 0x12


def _wheels(pattern):
    spec = find_spec("nvidia")
    folders = spec.submodule_search_locations if spec else ()
    return sorted(path for folder in folders for path in Path(folder).glob(pattern))


@functools.cache
def nvrtc():
    """Return NVRTC as a library of ctypes, or None."""
    for path in (*_wheels("*/lib/libnvrtc.so.1[0-9]"), "libnvrtc.so.12", "libnvrtc.so.13"):
        try:
            return ctypes.CDLL(str(path))
        except OSError:
            continue
    return None


@functools.cache
def nvdisasm():
    """Return the path of the disassembler, or None."""
    found = _wheels("*/bin/nvdisasm")
    return str(found[0]) if found else shutil.which("nvdisasm")


@functools.cache
def why_not():
    """Say what is missing, or None."""
    missing = [name for name, tool in (("NVRTC", nvrtc()), ("nvdisasm", nvdisasm())) if not tool]
    missing += [] if _wheels("*/include/cuda_fp16.h") else ["the headers of CUDA"]
    return f"{' and '.join(missing)} not found" if missing else None


def nvrtc_version():
    """Return NVRTC's version, as in ``"12.9"``."""
    major, minor = ctypes.c_int(), ctypes.c_int()
    nvrtc().nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    return f"{major.value}.{minor.value}"


@functools.cache
def architectures():
    """Return those for which this NVRTC compiles."""
    if nvrtc() is None:
        return ALL_ARCHITECTURES
    count = ctypes.c_int()
    nvrtc().nvrtcGetNumSupportedArchs(ctypes.byref(count))
    numbers = (ctypes.c_int * count.value)()
    nvrtc().nvrtcGetSupportedArchs(numbers)
    known = {f"sm_{number}" for number in numbers}
    return tuple(name for name in ALL_ARCHITECTURES if name in known)


ARCHITECTURES = architectures()


@dataclass(eq=False)
class Code:
    """A kernel for one architecture.

    Attributes
    ----------
    ptx
        The intermediate code: what the compiler was asked to compute.
    cubin
        The instructions of the GPU.
    registers
        Registers of a thread.
    stack
        Bytes of slow, local memory of a thread.
    """

    ptx: str
    cubin: bytes
    registers: int
    stack: int

    @functools.cached_property
    def sass(self):
        """Return the instructions as text, one a line."""
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(self.cubin)
            file.flush()
            command = [nvdisasm(), "-c", "-ndf", file.name]
            shown = subprocess.run(command, capture_output=True, text=True, check=True)
        return shown.stdout

    def memory(self):
        """Return how often each instruction that reaches memory stands in the code."""
        instruction = r"/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+ )?((?:LD|ST|ATOM|RED)\w*(?:\.[\w.]+)?)\s"
        names = re.findall(instruction, self.sass)
        # .SYS and .CONSTANT say where a value is cached, and change nothing here.
        names = [re.sub(r"\.(SYS|CONSTANT|STRONG|GPU|WEAK)\b", "", name) for name in names]
        return Counter(name for name in names if not name.startswith("LDC"))


@functools.cache
def compile_code(source, architecture):
    """Return the machine code of `source`."""
    library = nvrtc()
    program = ctypes.c_void_p()
    text = source.encode()
    library.nvrtcCreateProgram(ctypes.byref(program), text, b"kernel.cu", 0, None, None)
    folders = {path.parent for path in _wheels("*/include/cuda_fp16.h")}
    options = [f"-arch={architecture}", *OPTIONS, *(f"-I{folder}" for folder in folders)]
    options = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
    failed = library.nvrtcCompileProgram(program, len(options), options)
    log = _get(library, program, "ProgramLog")
    assert not failed, log.decode()
    ptx, cubin = _get(library, program, "PTX"), _get(library, program, "CUBIN")
    library.nvrtcDestroyProgram(ctypes.byref(program))
    attributes = _attributes(cubin)
    return Code(
        ptx.rstrip(b"\0").decode(),
        cubin,
        max(attributes[_REGISTER_COUNT]),
        max(attributes[_MIN_STACK_SIZE]),
    )


def _get(library, program, what):
    size = ctypes.c_size_t()
    getattr(library, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    getattr(library, f"nvrtcGet{what}")(program, buffer)
    return buffer.raw


def _attributes(cubin):
    """Return the values of the attributes of a cubin's functions: {attribute: values}."""
    (sections,) = struct.unpack_from("<Q", cubin, 0x28)
    (count, names_at) = struct.unpack_from("<HH", cubin, 0x3C)
    headers = [struct.unpack_from("<IIQQQQIIQQ", cubin, sections + i * 64) for i in range(count)]
    found = {}
    for header in headers:
        start = headers[names_at][4] + header[0]
        if cubin[start : cubin.index(b"\0", start)] == b".nv.info":
            at, end = header[4], header[4] + header[5]
            while at < end:
                kind, attribute, size = struct.unpack_from("<BBH", cubin, at)
                if kind == 4 and size == 8:
                    found.setdefault(attribute, []).append(
                        struct.unpack_from("<I", cubin, at + 8)[0]
                    )
                at += 4 + (size if kind == 4 else 0)
    return found


def expected_vectors(graph, vector):
    """Return how many accesses of 16 bytes the loop of a pass needs: loads, stores."""
    loads, stores = (
        sum(vector * DTYPES[array.dtype].itemsize // 16 for array in arrays)
        for arrays in (graph.loaded, graph.stored)
    )
    return loads, stores
