"""Builds the compiled part of cnet; everything else stands in pyproject.toml.

The C kernels in csrc/ are compiled once per instruction set, from the same sources, into the extension ``_dispatch``,
which chooses among them when it is imported. The other extensions reach them through its table.
"""

import os
import platform
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

# The one table of instruction sets: name, and the flags that a compiler needs for it. Flags, not -march levels, so that
# they are exactly what csrc/dispatch.c asks the machine for.
_AVX2 = ["-mavx2", "-mfma"]
_AVX512 = [*_AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mprefer-vector-width=512"]
ISAS = {
    # The baseline is for machines that have none of the others: it had better be small than fast.
    "x86_64": {"baseline": ["-O2"], "avx2": _AVX2, "avx512": _AVX512},
    "aarch64": {"baseline": [], "neon": []},
}

# gnu11, not c11: the strict standards switch off the contraction of a * b + c into one instruction. The loops are
# vectorised by hand, so the compiler's own straight-line vectoriser only gets in the way of the register tiles.
C_FLAGS = ["-O3", "-std=gnu11", "-fno-math-errno", "-fno-trapping-math", "-fno-tree-slp-vectorize"]
# What is not a kernel only divides work: it had better be small. No exception passes through C, so the tables for
# unwinding, a twentieth of the code, would serve nothing.
SHARED_FLAGS = ["-Os", "-g0", "-fvisibility=hidden", "-fno-asynchronous-unwind-tables", "-fno-unwind-tables"]

MACHINE = {"AMD64": "x86_64", "arm64": "aarch64"}.get(platform.machine(), platform.machine())
# Sanitizers and the like: CNET_CFLAGS is added to every compile and link.
EXTRA_FLAGS = os.environ.get("CNET_CFLAGS", "").split()


EMPTY_PROGRAM = "int main(void) { return 0; }"
OPENMP_PROGRAM = "#include <omp.h>\nint main(void) { return !omp_get_max_threads(); }"


class BuildExtensions(build_ext):
    """Adds OpenMP where the compiler has it, and the kernels of every instruction set that it knows."""

    def build_extensions(self):
        openmp = ["-fopenmp"] if self.compiles(["-fopenmp"], OPENMP_PROGRAM) else []
        if not openmp:
            self.warn("no OpenMP: cnet will run on one thread")
        strip = ["-Wl,-s"] if self.compiles(["-Wl,-s"]) and not EXTRA_FLAGS else []
        for extension in self.extensions:
            extension.extra_compile_args = [*SHARED_FLAGS, *openmp, *EXTRA_FLAGS]
            extension.extra_link_args = [*openmp, *strip, *EXTRA_FLAGS]
        dispatch = next(e for e in self.extensions if e.name.endswith("._dispatch"))
        isas = {name: flags for name, flags in ISAS.get(MACHINE, {"baseline": []}).items() if self.compiles(flags)}
        dispatch.extra_objects = self.compile_kernels(isas)
        dispatch.libraries = ["m"]
        dispatch.define_macros = [(f"CN_HAVE_{name.upper()}", None) for name in isas]
        super().build_extensions()

    def compile_kernels(self, isas):
        """Object files of csrc/table.c and csrc/kernels/ for each instruction set, each in a folder of its own."""
        sources = ["csrc/table.c", *sorted(str(path) for path in Path("csrc/kernels").glob("*.c"))]

        def compile_one(job):
            name, source = job
            return self.compiler.compile(
                [source],
                output_dir=str(Path(self.build_temp, name)),
                macros=[("CN_ISA_HEADER", f'"isa/{name}.h"')],
                include_dirs=["csrc"],
                extra_postargs=[*SHARED_FLAGS, *C_FLAGS, *isas[name], *EXTRA_FLAGS],
            )

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = pool.map(compile_one, [(name, source) for name in isas for source in sources])
            return [path for paths in objects for path in paths]

    def compiles(self, flags, program=EMPTY_PROGRAM):
        """Whether the compiler takes these flags and links this program with them."""
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "probe.c")
            source.write_text(program)
            try:
                objects = self.compiler.compile([str(source)], output_dir=folder, extra_postargs=["-Werror", *flags])
                self.compiler.link_executable(objects, str(Path(folder, "probe")), extra_postargs=flags)
            except Exception:
                # distutils raises its own CompileError or LinkError, whose home differs between versions.
                return False
            return True


def extensions():
    # The kernels are linked, not listed, so a change in one must be said to concern the extensions.
    kernels = [str(path) for path in Path("csrc").rglob("*.*") if path.suffix in (".c", ".h", ".def")]
    for path in sorted(Path("cnet/kernels").glob("*.pyx")):
        sources = [str(path)] + (["csrc/dispatch.c"] if path.stem == "_dispatch" else [])
        yield Extension(f"cnet.kernels.{path.stem}", sources, include_dirs=["csrc"], depends=kernels)


setup(
    ext_modules=cythonize(
        # What all modules need for memoryviews stands in one of their own, not in each. Python also registers it under
        # its last name alone, which is therefore ours.
        [*extensions(), Extension("cnet.kernels._cnet_cython", ["cnet/kernels/_cnet_cython.c"])],
        shared_utility_qualified_name="cnet.kernels._cnet_cython",
        compiler_directives={
            "language_level": 3,
            "boundscheck": False,
            "wraparound": False,
            "initializedcheck": False,
            "cdivision": True,
            "auto_pickle": False,
            "embedsignature": True,
        },
    ),
    cmdclass={"build_ext": BuildExtensions},
)
