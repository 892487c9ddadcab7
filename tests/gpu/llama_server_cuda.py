"""A llama-server with CUDA for the GPU tests: built where there is a compiler, carried to where there is a GPU.

`python -m tests.gpu.llama_server_cuda FOLDER` makes FOLDER/llama-server.xz; what it works with stays beside it. Needs
nvcc, cmake, ninja and a C++ compiler, and no GPU; half an hour on two cores. ARCH names the card (90-real: H100, H200).

Of llama.cpp's CUDA kernels those are built that the tests' models use: weights in q8_0 and q4_0, heads of 128, one of
keys and values to four, a cache in f16 or q8_0, flash attention. With another model it crashes. cuBLAS (half a
gigabyte) stays outside too: the program looks for it in its own folder first.
"""

from __future__ import annotations

import lzma
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from tests.llamacpp.llama_server import FLAGS, CannotBuildError, run, sources

ARCH = os.environ.get("ARCH", "90-real")
UNUSED = (
    "conv[0-9]*", "conv-*", "col2im*", "pool*", "pad_reflect*", "upscale", "roll", "opt-step-*", "cross-entropy-loss",
    "out-prod", "count-equal", "wkv", "gla", "gated_delta_net", "ssm-*", "solve_tri", "tri", "lightning-indexer",
    "dsv4-hc", "snake", "tsembd", "allreduce", "*/fattn-tile-*", "*/mmf-*", "*/mmq-*", "*/fattn-mma-*",
)  # fmt: skip
"""Files of kernels that no test needs, without those that match `USED`."""
USED = re.compile(r"mmq-instance-q[48]_0|fattn-mma-.*ncols2_[14]\.")
OTHER_HEADS = re.compile(r"^DECL_FATTN_(MMA_F16|VEC)_CASE\((?! *128, *(128|GGML)).*\n", re.MULTILINE)
DRIVER = (
    "cuDeviceGet", "cuDeviceGetAttribute", "cuGetErrorString", "cuMemAddressFree", "cuMemAddressReserve", "cuMemCreate",
    "cuMemGetAllocationGranularity", "cuMemMap", "cuMemRelease", "cuMemSetAccess", "cuMemUnmap",
)  # fmt: skip
"""What it calls of the driver's library, which comes with a driver only: to link, the names are enough."""


def build(folder: Path) -> Path:
    """The packed program. What was made before is made use of. Raises CannotBuildError."""
    work = folder / "work"
    found = list(work.glob("*/vendor/llama.cpp"))
    if not found:
        work.mkdir(parents=True, exist_ok=True)
        found = [sources(work)]
        leave_out(found[0] / "ggml/src/ggml-cuda")
    toolkit, version = compiler()
    libraries = cublas(work, version)
    linked = {
        "cudart": toolkit / "lib64/libcudart_static.a",
        "cuda_driver": driver(work),
        "cublas": next(libraries.glob("libcublas.so.*")),
        "cublasLt": next(libraries.glob("libcublasLt.so.*")),
    }
    flags = [
        *FLAGS, "-DGGML_CUDA=ON", f"-DCMAKE_CUDA_ARCHITECTURES={ARCH}", f"-DCMAKE_CUDA_COMPILER={toolkit}/bin/nvcc",
        f"-DCUDAToolkit_ROOT={toolkit}", f"-DCMAKE_CUDA_FLAGS=-I{libraries.parent}/include",
        "-DGGML_CUDA_FA_QUANTS=q8_0-q8_0", "-DGGML_CUDA_COMPRESSION_MODE=size", "-DGGML_CUDA_NCCL=OFF",
        *(f"-DCUDA_{name}_LIBRARY={path}" for name, path in linked.items()),
        # What is left out is called by nobody; position independent it would be looked for at the start all the same.
        "-DCMAKE_EXE_LINKER_FLAGS=-no-pie -Wl,--unresolved-symbols=ignore-all,-rpath,'$ORIGIN'",
        "-DCMAKE_SKIP_BUILD_RPATH=ON",
        *(f"-DCMAKE_{name}_COMPILER_LAUNCHER=ccache" for name in ("C", "CXX", "CUDA") if shutil.which("ccache")),
    ]  # fmt: skip
    run("cmake", "-S", str(found[0]), "-B", str(work / "build"), "-G", "Ninja", *flags)
    run("cmake", "--build", str(work / "build"), "--target", "llama-server")
    program = work / "build/bin/llama-server"
    run("strip", str(program))
    packed = folder / "llama-server.xz"
    packed.write_bytes(lzma.compress(program.read_bytes(), preset=6))
    return packed


def leave_out(kernels: Path) -> None:
    """Delete the kernels that no test needs."""
    for pattern in UNUSED:
        for path in kernels.glob(f"{pattern}.cu"):
            if not USED.search(path.name):
                path.unlink()
    for path in kernels.glob("*/fattn-*.cu"):
        path.write_text(OTHER_HEADS.sub("", path.read_text()))


def compiler() -> tuple[Path, str]:
    """The folder of CUDA's toolkit, and its version without the last number."""
    told = subprocess.run(["nvcc", "--dryrun", "-c", "-x", "cu", "-o", os.devnull, os.devnull], capture_output=True)
    place = re.search(r"_HERE_=(.+)/bin$", told.stderr.decode(), re.MULTILINE)
    version = re.search(r"release (\d+\.\d+)", subprocess.check_output(["nvcc", "--version"], text=True))
    if not (place and version):
        raise CannotBuildError("nvcc does not say where its toolkit is")
    return Path(place[1]), version[1]


def cublas(work: Path, version: str) -> Path:
    """The folder of cuBLAS' libraries, with its headers beside it, from NVIDIA's wheel of the compiler's version."""
    unpacked = work / "cublas"
    if not unpacked.exists():
        download = ("download", "--quiet", "--no-deps", "--only-binary", ":all:", f"nvidia-cublas=={version}.*")
        run(str(work / "pip/bin/python"), "-m", "pip", *download, "-d", str(work))
        with zipfile.ZipFile(next(work.glob("nvidia_cublas-*.whl"))) as wheel:
            wheel.extractall(unpacked)
    return next(unpacked.glob("nvidia/*/lib"))


def driver(work: Path) -> Path:
    """A library with the names of the driver's: every call says that there is no device (100)."""
    (work / "cuda.c").write_text("\n".join(f"int {name}(void) {{ return 100; }}" for name in DRIVER))
    library = work / "libcuda.so.1"
    run("cc", "-shared", "-fPIC", f"-Wl,-soname,{library.name}", "-o", str(library), str(work / "cuda.c"))
    return library


if __name__ == "__main__":
    try:
        sys.stdout.write(f"{build(Path(sys.argv[1]).resolve())}\n")
    except (CannotBuildError, OSError) as error:
        sys.exit(f"no llama-server: {error}")
