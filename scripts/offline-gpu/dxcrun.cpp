// dxcrun LIBRARY FILE...: compiles `main` of each HLSL file with Microsoft's compiler (DXC), with the options that wgpu
// gives it, and prints `ok` or `FAIL` and what the compiler says. With DISASM=1 it leaves the DXIL in FILE.ll.
#include <cstdio>
#include <cstdlib>
#include <dlfcn.h>
#include <fstream>
#include <sstream>
#include <string>

#include "dxcapi.h"

static std::string contents(const char *path) {
  std::stringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

static void disassemble(IDxcCompiler3 *compiler, IDxcResult *result, const char *path) {
  IDxcBlob *object = nullptr;
  result->GetOutput(DXC_OUT_OBJECT, __uuidof(IDxcBlob), (void **)&object, nullptr);
  if (!object) return;
  DxcBuffer code = {object->GetBufferPointer(), object->GetBufferSize(), 0};
  IDxcResult *listing = nullptr;
  compiler->Disassemble(&code, __uuidof(IDxcResult), (void **)&listing);
  IDxcBlobUtf8 *text = nullptr;
  listing->GetOutput(DXC_OUT_DISASSEMBLY, __uuidof(IDxcBlobUtf8), (void **)&text, nullptr);
  std::ofstream(std::string(path) + ".ll") << text->GetStringPointer();
}

// Compiles a file; returns whether it did. What the compiler gives is not released: the process is short.
static bool compile(IDxcCompiler3 *compiler, const char *path) {
  const wchar_t *options[] = {L"-E", L"main", L"-T", L"cs_6_2", L"-HV", L"2018", L"-no-warnings", L"-enable-16bit-types"};
  std::string text = contents(path);
  DxcBuffer buffer = {text.data(), text.size(), DXC_CP_UTF8};
  IDxcResult *result = nullptr;
  HRESULT status = compiler->Compile(
      &buffer, options, sizeof options / sizeof *options, nullptr, __uuidof(IDxcResult), (void **)&result);
  if (!status) result->GetStatus(&status);
  printf("%s\t%s\n", status ? "FAIL" : "ok", path);
  IDxcBlobUtf8 *errors = nullptr;
  if (status && result) result->GetOutput(DXC_OUT_ERRORS, __uuidof(IDxcBlobUtf8), (void **)&errors, nullptr);
  if (errors) printf("%.2000s\n", errors->GetStringPointer());
  if (!status && getenv("DISASM")) disassemble(compiler, result, path);
  fflush(stdout);
  return !status;
}

int main(int argc, char **argv) {
  void *library = argc > 1 ? dlopen(argv[1], RTLD_NOW | RTLD_GLOBAL) : nullptr;
  if (!library) {
    fprintf(stderr, "dxcrun: no library of DXC: %s\n", argc > 1 ? dlerror() : "give its path");
    return 2;
  }
  auto create = (DxcCreateInstanceProc)dlsym(library, "DxcCreateInstance");
  IDxcCompiler3 *compiler = nullptr;
  if (!create || create(CLSID_DxcCompiler, __uuidof(IDxcCompiler3), (void **)&compiler)) {
    fprintf(stderr, "dxcrun: %s makes no compiler\n", argv[1]);
    return 2;
  }
  int compiled = 0;
  for (int i = 2; i < argc; i++) compiled += compile(compiler, argv[i]);
  printf("DXC compiles %d of %d shaders\n", compiled, argc - 2);
  return compiled != argc - 2;
}
