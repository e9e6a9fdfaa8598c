"""Gives the kernels that naga writes as HLSL to compilers that come in Python packages.

hlsl.py fetch dxc|ptxas DIR         downloads a compiler, once; its packages are unpacked into DIR/pip, not installed
hlsl.py dxc|ptxas DIR [GLOB]        compiles the files of DIR/hlsl, or those whose names GLOB matches

dxc:   Microsoft's compiler, whose library comes with compushady; prints a line for each shader.
ptxas: the back end of NVIDIA's compilers. Slang makes CUDA C++ of the HLSL, NVRTC makes PTX of that, and ptxas says what
       the code takes on sm_86 (or sm_$ARCH). Prints what stats_layer.c prints of a driver's pipelines. It is not the front end
       of NVIDIA's Vulkan driver, and does not take shaders with operations of subgroups, which Slang refuses.
Exit code 75 if a package cannot be downloaded, 1 if DXC refuses a shader."""

import ctypes
import fnmatch
import os
import re
import struct
import subprocess
import sys
import tarfile
import zipfile

HERE = os.path.dirname(os.path.abspath(__file__))
SKIPPED = 75
# CUDA's packages are of one version, or NVRTC's PTX is too new for ptxas.
PACKAGES = {
    "dxc": ["compushady"],
    "ptxas": ["slangtorch", "nvidia-cuda-nvcc-cu12", "nvidia-cuda-nvrtc-cu12", "nvidia-cuda-runtime-cu12"],
}
# An SM of sm_86 has room for so many registers and warps.
REGISTERS_OF_SM = 65536
WARPS_OF_SM = 48
# Instructions of sm_70 and later have a fixed length.
INSTRUCTION_BYTES = 16


def unpacked(folder, tool):
    """Downloads the packages of a compiler and unpacks them, once; returns where they are."""
    place = folder + "/pip"
    for package in PACKAGES[tool]:
        mark = f"{place}/{package}.done"
        if os.path.exists(mark):
            continue
        downloads = f"{place}/downloads/{package}"
        os.makedirs(downloads, exist_ok=True)
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", downloads, package]
        if subprocess.run(pip).returncode:
            print(f"hlsl.py: the package {package} cannot be downloaded", file=sys.stderr)
            sys.exit(SKIPPED)
        for file in os.listdir(downloads):
            path = f"{downloads}/{file}"
            archive = zipfile.ZipFile(path) if file.endswith(".whl") else tarfile.open(path)
            archive.extractall(place)
            os.remove(path)
        open(mark, "w").close()
    return place


def dxc(folder, files):
    """Compiles all files; whether DXC takes each of them."""
    place = unpacked(folder, "dxc")
    backends = next(f"{place}/{d}/compushady/backends" for d in os.listdir(place) if d.startswith("compushady-"))
    program = folder + "/dxcrun"
    build = ["g++", "-O1", "-fms-extensions", "-w", "-I", backends, HERE + "/dxcrun.cpp", "-o", program, "-ldl"]
    subprocess.run(build, check=True)
    return subprocess.run([program, backends + "/libdxcompiler_x86_64.so.3.7", *files]).returncode == 0


class Nvrtc:
    """NVIDIA's run-time compiler: CUDA C++ to PTX."""

    def __init__(self, place):
        self.library = ctypes.CDLL(place + "/nvidia/cuda_nvrtc/lib/libnvrtc.so.12")
        self.include = place + "/nvidia/cuda_runtime/include"

    def text(self, what, program):
        """Returns a text that the library has of a program, `PTX` or `ProgramLog`."""
        size = ctypes.c_size_t()
        getattr(self.library, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
        data = ctypes.create_string_buffer(size.value)
        getattr(self.library, f"nvrtcGet{what}")(program, data)
        return data.value

    def ptx(self, source, arch):
        """Compiles; raises ValueError with what the compiler says."""
        program = ctypes.c_void_p()
        self.library.nvrtcCreateProgram(ctypes.byref(program), source, b"kernel.cu", 0, None, None)
        options = [f"--gpu-architecture=compute_{arch}", "-std=c++17", "-w", f"-I{self.include}", "-DSLANG_CUDA_ENABLE_HALF=1"]
        array = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        if self.library.nvrtcCompileProgram(program, len(options), array):
            raise ValueError("NVRTC: " + self.text("ProgramLog", program).decode())
        return self.text("PTX", program)


def code_bytes(path):
    """Returns the bytes of the code in a cubin, an ELF file of 64 bits: of its sections .text.*."""
    data = open(path, "rb").read()
    start, = struct.unpack_from("<Q", data, 0x28)
    size, count, names = struct.unpack_from("<HHH", data, 0x3A)
    sections = [struct.unpack_from("<IIQQQQ", data, start + i * size) for i in range(count)]
    strings = sections[names][4]
    return sum(s[5] for s in sections if data[strings + s[0]:].startswith(b".text."))


def assembled(file, name, slangc, nvrtc, assembler):
    """Returns what ptxas says of a shader, as statistics; raises ValueError if a compiler before it refuses."""
    arch = os.environ.get("ARCH", "86")
    slang = [slangc, "-lang", "hlsl", file, "-entry", "main", "-stage", "compute", "-target", "cuda", "-o", name + ".cu"]
    made = subprocess.run(slang, capture_output=True, text=True)
    if made.returncode:
        errors = [line for line in made.stderr.splitlines() if line.startswith("error")]
        raise ValueError("Slang: " + " ".join(errors[:1]))
    with open(name + ".cu", "rb") as source, open(name + ".ptx", "wb") as ptx:
        ptx.write(nvrtc.ptx(source.read(), arch))
    command = [assembler, "-v", f"-arch=sm_{arch}", name + ".ptx", "-o", name + ".cubin"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stderr

    def number(pattern):
        found = re.search(pattern, said)
        return int(found[1]) if found else 0

    registers = number(r"Used (\d+) registers")
    # The SM gives out registers in blocks of eight a lane.
    warps = min(WARPS_OF_SM, REGISTERS_OF_SM // (32 * 8 * -(-registers // 8)))
    return {
        "Registers": registers, "Warps": warps,
        "Spill stores": number(r"(\d+) bytes spill stores"), "Spill loads": number(r"(\d+) bytes spill loads"),
        "Stack": number(r"(\d+) bytes stack"), "Shared": number(r"(\d+) bytes smem"),
        "Instructions": code_bytes(name + ".cubin") // INSTRUCTION_BYTES,
    }


def ptxas(folder, files):
    """Prints the statistics of all unchecked files; what Slang refuses is left out, with the reason."""
    place = unpacked(folder, "ptxas")
    slangc, assembler = place + "/slangtorch/bin/slangc", place + "/nvidia/cuda_nvcc/bin/ptxas"
    for program in (slangc, assembler):
        os.chmod(program, 0o755)
    nvrtc = Nvrtc(place)
    version = subprocess.run([assembler, "--version"], capture_output=True, text=True).stdout.splitlines()[-1]
    print("adapter", "ptxas", version, sep="\t")
    os.makedirs(folder + "/ptx", exist_ok=True)
    for number, file in enumerate(f for f in files if f.endswith(".unchecked.hlsl")):
        name = os.path.basename(file).replace(".unchecked.hlsl", "")
        kernel = name.split(".")
        try:
            found = assembled(file, f"{folder}/ptx/{name}", slangc, nvrtc, assembler)
            print("kernel", *kernel, sep="\t")
            print("stat", number, "main", 32, *(f"{k}={v}" for k, v in found.items()), sep="\t", flush=True)
        except ValueError as error:
            print("skip", *kernel, " ".join(str(error).split())[:200], sep="\t", flush=True)
    return True


def main(task, *words):
    if task == "fetch":
        unpacked(words[1], words[0])
        return 0
    folder, glob = words[0], (words[1:] or ["*"])[0]
    names = sorted(name for name in os.listdir(folder + "/hlsl") if fnmatch.fnmatch(name, glob + "*.hlsl"))
    files = [f"{folder}/hlsl/{name}" for name in names]
    return not {"dxc": dxc, "ptxas": ptxas}[task](folder, files)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
