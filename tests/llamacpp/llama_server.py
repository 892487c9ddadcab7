"""A real llama-server for tests: built for the CPU from a pinned source distribution, and kept in the user's cache.

`python tests/llamacpp/llama_server.py` builds it where it is not there yet (some minutes on two cores; needs cmake,
ninja and a C++ compiler) and prints where it is. llama-cpp-python carries llama.cpp's sources, so that pip alone
fetches them. The cache is keyed by the version and by this file.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
from pathlib import Path

VERSION = "0.3.36"
SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
NEEDED = ("cmake", "ninja", "c++")
FLAGS = (
    "-DCMAKE_BUILD_TYPE=Release", "-DCMAKE_C_FLAGS_RELEASE=-O1 -DNDEBUG", "-DCMAKE_CXX_FLAGS_RELEASE=-O1 -DNDEBUG",
    "-DBUILD_SHARED_LIBS=OFF", "-DGGML_NATIVE=OFF", "-DGGML_OPENMP=OFF", "-DGGML_CCACHE=OFF", "-DGGML_LLAMAFILE=OFF",
    "-DLLAMA_OPENSSL=OFF", "-DLLAMA_BUILD_UI=OFF", "-DLLAMA_USE_PREBUILT_UI=OFF", "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF", "-DLLAMA_BUILD_APP=OFF", "-DLLAMA_SUBPROCESS=ON",
)  # fmt: skip

TOGETHER = ("-DCMAKE_UNITY_BUILD=ON", "-DCMAKE_UNITY_BUILD_BATCH_SIZE=8")
"""Eight sources are compiled as one: that takes half of the time."""
ALONE = """
function(alone target)
  foreach(source IN LISTS ARGN)
    set_source_files_properties(${CMAKE_SOURCE_DIR}/${source} TARGET_DIRECTORY ${target}
      PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
  endforeach()
endfunction()
cmake_language(DEFER CALL alone llama-common common/json.cpp)
cmake_language(DEFER CALL alone mtmd tools/mtmd/mtmd-helper.cpp tools/mtmd/mtmd-helper-gen.cpp)
"""
"""Sources that cannot be compiled with others, for CMake."""


class CannotBuildError(Exception):
    """This machine lacks something, or the sources are not those that are meant; the text says what."""


def cache_folder() -> Path:
    """Where the program of this version and this recipe is kept."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    recipe = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
    return base / "gpumod-tests" / f"llama-server-{VERSION}-{recipe}"


def find_or_build() -> Path:
    """The program: what GPUMOD_TEST_LLAMA_SERVER names, else the kept one, else a new one. Raises CannotBuildError."""
    if named := os.environ.get("GPUMOD_TEST_LLAMA_SERVER"):
        return Path(named)
    folder = cache_folder()
    program = folder / "llama-server"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two that build at once would take twice as long
        for stale in folder.glob("tmp*"):  # of a build that was killed
            shutil.rmtree(stale)
        if not program.exists():
            if missing := [name for name in NEEDED if not shutil.which(name)]:
                raise CannotBuildError(f"needs {', '.join(missing)} (Debian: cmake ninja-build g++)")
            with tempfile.TemporaryDirectory(dir=folder) as work:
                _build(sources(Path(work)), Path(work) / "build").replace(program)
    return program


def sources(work: Path) -> Path:
    """llama.cpp's sources, fetched by pip, which also checks them."""
    venv.create(work / "pip", with_pip=True)
    wanted = work / "wanted.txt"
    wanted.write_text(f"llama-cpp-python=={VERSION} --hash=sha256:{SHA256}\n")
    download = ("download", "--quiet", "--no-deps", "--no-binary", "llama-cpp-python", "--require-hashes")
    run(str(work / "pip/bin/python"), "-m", "pip", *download, "-d", str(work), "-r", str(wanted))
    (archive,) = work.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(work, filter="data")
    return work / archive.name.removesuffix(".tar.gz") / "vendor" / "llama.cpp"


def _build(sources: Path, folder: Path) -> Path:
    folder.mkdir()
    (folder / "alone.cmake").write_text(ALONE)
    alone = f"-DCMAKE_PROJECT_llama.cpp_INCLUDE={folder / 'alone.cmake'}"
    run("cmake", "-S", str(sources), "-B", str(folder), "-G", "Ninja", *FLAGS, *TOGETHER, alone)
    run("cmake", "--build", str(folder), "--target", "llama-server")
    program = folder / "bin" / "llama-server"
    run("strip", str(program))
    return program


def run(*words: str) -> None:
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    if done.returncode:
        raise CannotBuildError(f"{' '.join(words[:3])} failed:\n{done.stdout[-3000:]}")


if __name__ == "__main__":
    try:
        sys.stdout.write(f"{find_or_build()}\n")
    except CannotBuildError as error:
        sys.exit(f"no llama-server: {error}")
