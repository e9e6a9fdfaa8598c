// An Intel GPU that is not there, for Mesa's Vulkan driver (anv) to compile for.
//
// It answers what the driver asks of the Linux kernel's i915 interface before it makes pipelines, and while it does.
// Submitted work is dropped. It is preloaded before one of Mesa's own libX_noop_drm_shim.so, which plays the device
// file; this library says that the file is Intel's.
// INTEL_STUB_ID is the PCI id in hexadecimal (56a0: Arc A770, 9a49: Tiger Lake, e20b: Arc B580); with
// INTEL_STUB_INTEGRATED=1 the GPU has no memory of its own.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/types.h>

#include <drm/drm.h>
#include <drm/i915_drm.h>

static uint32_t pci_id(void) {
  const char *id = getenv("INTEL_STUB_ID");
  return id ? strtoul(id, NULL, 16) : 0x56a0;
}

// How many of its parts the GPU has; compilers do not ask.
#define SUBSLICES 6
#define EUS_PER_SUBSLICE 16

// Buffers: memory that is made when it is first mapped. A buffer's handle is in the offset at which it is mapped.
#define BUFFERS 65536
#define OFFSET(handle) ((uint64_t)(handle) << 40)
static struct {
  uint64_t size;
  void *map;
} buffers[BUFFERS];
static uint32_t last_handle;

static uint32_t new_buffer(uint64_t size) {
  uint32_t handle = __atomic_add_fetch(&last_handle, 1, __ATOMIC_RELAXED);
  if (handle >= BUFFERS) abort();
  buffers[handle].size = size;
  return handle;
}

static void *memory(uint32_t handle) {
  if (!buffers[handle].map)
    buffers[handle].map = mmap(
        NULL, buffers[handle].size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return buffers[handle].map;
}

static void close_buffer(uint32_t handle) {
  if (handle >= BUFFERS || !buffers[handle].map) return;
  munmap(buffers[handle].map, buffers[handle].size);
  buffers[handle].map = NULL;
}

static int get_param(struct drm_i915_getparam *p) {
  switch (p->param) {
  case I915_PARAM_CHIPSET_ID: *p->value = pci_id(); return 0;
  case I915_PARAM_REVISION:
  case I915_PARAM_HAS_LLC:
  case I915_PARAM_HAS_USERPTR_PROBE: *p->value = 0; return 0;
  case I915_PARAM_CS_TIMESTAMP_FREQUENCY: *p->value = 19200000; return 0;
  case I915_PARAM_HAS_ALIASING_PPGTT: *p->value = 3; return 0;
  case I915_PARAM_MMAP_GTT_VERSION:
  case I915_PARAM_MMAP_VERSION: *p->value = 4; return 0;
  case I915_PARAM_CMD_PARSER_VERSION: *p->value = 10; return 0;
  case I915_PARAM_PERF_REVISION: *p->value = 3; return 0;
  default: *p->value = 1; return 0; // it has whatever else is asked for
  }
}

static int engines(char *data) {
  struct drm_i915_query_engine_info *info = (void *)data;
  info->num_engines = 2;
  info->engines[0].engine.engine_class = I915_ENGINE_CLASS_RENDER;
  info->engines[1].engine.engine_class = I915_ENGINE_CLASS_COPY;
  return sizeof *info + 2 * sizeof info->engines[0];
}

static int memory_regions(char *data) {
  const uint64_t size = 16ull << 30;
  struct drm_i915_query_memory_regions *info = (void *)data;
  info->num_regions = getenv("INTEL_STUB_INTEGRATED") ? 1 : 2;
  for (uint32_t i = 0; i < info->num_regions; i++) {
    struct drm_i915_memory_region_info *region = &info->regions[i];
    region->region.memory_class = i ? I915_MEMORY_CLASS_DEVICE : I915_MEMORY_CLASS_SYSTEM;
    region->probed_size = region->unallocated_size = size;
    region->probed_cpu_visible_size = region->unallocated_cpu_visible_size = size;
  }
  return sizeof *info + info->num_regions * sizeof info->regions[0];
}

// One slice, of which all subslices and all their execution units are there.
static int topology(char *data) {
  struct drm_i915_query_topology_info *info = (void *)data;
  info->max_slices = 1;
  info->max_subslices = SUBSLICES;
  info->max_eus_per_subslice = EUS_PER_SUBSLICE;
  info->subslice_offset = 1;
  info->subslice_stride = (SUBSLICES + 7) / 8;
  info->eu_offset = info->subslice_offset + info->subslice_stride;
  info->eu_stride = (EUS_PER_SUBSLICE + 7) / 8;
  info->data[0] = 1;
  for (int s = 0; s < SUBSLICES; s++) info->data[info->subslice_offset + s / 8] |= 1 << s % 8;
  memset(info->data + info->eu_offset, 0xff, SUBSLICES * info->eu_stride);
  return sizeof *info + info->eu_offset + SUBSLICES * info->eu_stride;
}

// The driver asks twice: for the length of an answer, then for the answer.
static int query(struct drm_i915_query *query) {
  struct drm_i915_query_item *items = (void *)(uintptr_t)query->items_ptr;
  for (uint32_t i = 0; i < query->num_items; i++) {
    char data[1024] = {0};
    int length;
    switch (items[i].query_id) {
    case DRM_I915_QUERY_ENGINE_INFO: length = engines(data); break;
    case DRM_I915_QUERY_MEMORY_REGIONS: length = memory_regions(data); break;
    case DRM_I915_QUERY_TOPOLOGY_INFO:
    case DRM_I915_QUERY_GEOMETRY_SUBSLICES: length = topology(data); break;
    default: length = -EINVAL;
    }
    if (length > 0 && items[i].length >= length) memcpy((void *)(uintptr_t)items[i].data_ptr, data, length);
    items[i].length = length;
  }
  return 0;
}

// Writes a text where it fits, and its length.
static void give(const char *text, char *place, size_t *length) {
  size_t full = strlen(text);
  if (place) memcpy(place, text, *length < full ? *length : full);
  *length = full;
}

static int version(struct drm_version *v) {
  v->version_major = 1;
  v->version_minor = 6;
  v->version_patchlevel = 0;
  give("i915", v->name, (size_t *)&v->name_len);
  give("20230929", v->date, (size_t *)&v->date_len);
  give("stub", v->desc, (size_t *)&v->desc_len);
  return 0;
}

static int context_param(struct drm_i915_gem_context_param *p) {
  p->value = p->param == I915_CONTEXT_PARAM_GTT_SIZE ? 1ull << 48 : 0;
  return 0;
}

// What is not listed, the submission of work among it, succeeds and does nothing.
static int i915(unsigned number, void *arg) {
  switch (number) {
  case DRM_I915_GETPARAM: return get_param(arg);
  case DRM_I915_QUERY: return query(arg);
  case DRM_I915_GEM_CREATE: {
    struct drm_i915_gem_create *a = arg;
    a->handle = new_buffer(a->size);
    return 0;
  }
  case DRM_I915_GEM_CREATE_EXT: {
    struct drm_i915_gem_create_ext *a = arg;
    a->handle = new_buffer(a->size);
    return 0;
  }
  case DRM_I915_GEM_USERPTR: {
    struct drm_i915_gem_userptr *a = arg;
    a->handle = new_buffer(a->user_size);
    return 0;
  }
  case DRM_I915_GEM_MMAP: {
    struct drm_i915_gem_mmap *a = arg;
    a->addr_ptr = (uintptr_t)memory(a->handle) + a->offset;
    return 0;
  }
  case DRM_I915_GEM_MMAP_GTT: {
    struct drm_i915_gem_mmap_offset *a = arg;
    a->offset = OFFSET(a->handle);
    return 0;
  }
  case DRM_I915_GEM_CONTEXT_CREATE: ((struct drm_i915_gem_context_create *)arg)->ctx_id = 1; return 0;
  case DRM_I915_GEM_VM_CREATE: ((struct drm_i915_gem_vm_control *)arg)->vm_id = 1; return 0;
  case DRM_I915_GEM_CONTEXT_GETPARAM: return context_param(arg);
  case DRM_I915_GEM_GET_APERTURE: {
    struct drm_i915_gem_get_aperture *a = arg;
    a->aper_size = a->aper_available_size = 1ull << 48;
    return 0;
  }
  default: return 0;
  }
}

int ioctl(int fd, unsigned long request, ...) {
  va_list list;
  va_start(list, request);
  void *arg = va_arg(list, void *);
  va_end(list);
  static int (*next)(int, unsigned long, ...);
  if (!next) next = dlsym(RTLD_NEXT, "ioctl");
  if (_IOC_TYPE(request) != DRM_IOCTL_BASE) return next(fd, request, arg);
  unsigned number = _IOC_NR(request);
  if (number == _IOC_NR(DRM_IOCTL_VERSION)) return version(arg);
  if (number == _IOC_NR(DRM_IOCTL_GEM_CLOSE)) {
    close_buffer(((struct drm_gem_close *)arg)->handle);
    return 0;
  }
  if (number < DRM_COMMAND_BASE || number >= DRM_COMMAND_END) return next(fd, request, arg);
  return i915(number - DRM_COMMAND_BASE, arg);
}

// Offsets from that of the first handle on mean buffers; all others are files.
static void *map(void *at, size_t length, int prot, int flags, int fd, off64_t offset, const char *name) {
  void *(*next)(void *, size_t, int, int, int, off64_t) = dlsym(RTLD_NEXT, name);
  if (fd < 0 || (uint64_t)offset < OFFSET(1)) return next(at, length, prot, flags, fd, offset);
  return (char *)memory((uint64_t)offset >> 40) + ((uint64_t)offset & (OFFSET(1) - 1));
}

void *mmap(void *at, size_t length, int prot, int flags, int fd, off_t offset) {
  return map(at, length, prot, flags, fd, offset, "mmap");
}

void *mmap64(void *at, size_t length, int prot, int flags, int fd, off64_t offset) {
  return map(at, length, prot, flags, fd, offset, "mmap64");
}

// What /sys says of the device; NULL for any other file.
static FILE *about_device(const char *path) {
  static const char FOLDER[] = "/sys/dev/char/226:"; // 226: the devices of DRM
  if (strncmp(path, FOLDER, strlen(FOLDER))) return NULL;
  char uevent[256], id[16];
  snprintf(uevent, sizeof uevent,
      "DRIVER=i915\nPCI_CLASS=30000\nPCI_ID=8086:%X\nPCI_SUBSYS_ID=8086:1020\nPCI_SLOT_NAME=0000:03:00.0\n", pci_id());
  snprintf(id, sizeof id, "0x%x\n", pci_id());
  const char *files[][2] = {{"uevent", uevent}, {"vendor", "0x8086\n"}, {"device", id},
      {"subsystem_vendor", "0x8086\n"}, {"subsystem_device", "0x1020\n"}, {"revision", "0x8\n"}};
  const char *name = strrchr(path, '/') + 1;
  for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
    if (strcmp(name, files[i][0])) continue;
    // Its own memory, which lives as long as the stream.
    FILE *stream = fmemopen(NULL, strlen(files[i][1]) + 1, "w+");
    fputs(files[i][1], stream);
    rewind(stream);
    return stream;
  }
  return NULL;
}

static FILE *open_file(const char *path, const char *mode, const char *name) {
  FILE *stub = about_device(path);
  FILE *(*next)(const char *, const char *) = dlsym(RTLD_NEXT, name);
  return stub ? stub : next(path, mode);
}

FILE *fopen(const char *path, const char *mode) { return open_file(path, mode, "fopen"); }
FILE *fopen64(const char *path, const char *mode) { return open_file(path, mode, "fopen64"); }
