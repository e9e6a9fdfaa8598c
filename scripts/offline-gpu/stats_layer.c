// A Vulkan layer that writes down what a driver's compiler says of each compute pipeline.
//
// The program above need not know: the layer turns on VK_KHR_pipeline_executable_properties in every device, and asks
// for the statistics of every compute pipeline when it has been made. It appends a line to the file $GPU_STATS:
//     stat <TAB> number <TAB> executable <TAB> subgroup size <TAB> name=value <TAB> name=value ...
// The number counts the pipelines from 0. With GPU_STATS_CODE=FOLDER the compiler's own texts (intermediate
// representations, assembly) go to FOLDER/NUMBER-EXECUTABLE-NAME.txt. With GPU_STATS_SUBGROUP=N all pipelines are
// compiled for subgroups of N. With GPU_STATS_UNROBUST=1 the driver need not check accesses to buffers, which wgpu
// always asks for.
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <vulkan/vk_layer.h>
#include <vulkan/vulkan.h>

#define EXPORT __attribute__((visibility("default")))

// The next layer's functions. One instance and one device at a time are enough for what runs here.
static PFN_vkGetInstanceProcAddr next_instance_proc;
static PFN_vkGetDeviceProcAddr next_device_proc;
static PFN_vkCreateComputePipelines next_create;
static PFN_vkGetPipelineExecutablePropertiesKHR get_properties;
static PFN_vkGetPipelineExecutableStatisticsKHR get_statistics;
static PFN_vkGetPipelineExecutableInternalRepresentationsKHR get_texts;

// Pipelines may be made by several threads.
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int pipelines_made;

// The loader passes the next layer in the chain of structures.
static VkLayerInstanceCreateInfo *instance_link(const VkInstanceCreateInfo *info) {
  VkLayerInstanceCreateInfo *link = (void *)info->pNext;
  while (link && !(link->sType == VK_STRUCTURE_TYPE_LOADER_INSTANCE_CREATE_INFO && link->function == VK_LAYER_LINK_INFO))
    link = (void *)link->pNext;
  return link;
}

static VkLayerDeviceCreateInfo *device_link(const VkDeviceCreateInfo *info) {
  VkLayerDeviceCreateInfo *link = (void *)info->pNext;
  while (link && !(link->sType == VK_STRUCTURE_TYPE_LOADER_DEVICE_CREATE_INFO && link->function == VK_LAYER_LINK_INFO))
    link = (void *)link->pNext;
  return link;
}

static VKAPI_ATTR VkResult VKAPI_CALL create_instance(
    const VkInstanceCreateInfo *info, const VkAllocationCallbacks *allocator, VkInstance *instance) {
  VkLayerInstanceCreateInfo *link = instance_link(info);
  if (!link) return VK_ERROR_INITIALIZATION_FAILED;
  next_instance_proc = link->u.pLayerInfo->pfnNextGetInstanceProcAddr;
  link->u.pLayerInfo = link->u.pLayerInfo->pNext;
  PFN_vkCreateInstance create = (PFN_vkCreateInstance)next_instance_proc(NULL, "vkCreateInstance");
  return create(info, allocator, instance);
}

// Takes the checks of accesses to buffers out of what a device is asked for. `plain` holds the changed copy of what is
// given as const.
static void without_checks(VkDeviceCreateInfo *info, VkPhysicalDeviceFeatures *plain) {
  if (info->pEnabledFeatures) {
    *plain = *info->pEnabledFeatures;
    plain->robustBufferAccess = VK_FALSE;
    info->pEnabledFeatures = plain;
  }
  for (VkBaseOutStructure *s = (void *)info->pNext; s; s = s->pNext) {
    if (s->sType == VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2)
      ((VkPhysicalDeviceFeatures2 *)s)->features.robustBufferAccess = VK_FALSE;
    if (s->sType == VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_ROBUSTNESS_2_FEATURES_EXT)
      ((VkPhysicalDeviceRobustness2FeaturesEXT *)s)->robustBufferAccess2 = VK_FALSE;
  }
}

static VKAPI_ATTR VkResult VKAPI_CALL create_device(
    VkPhysicalDevice physical, const VkDeviceCreateInfo *info, const VkAllocationCallbacks *allocator, VkDevice *device) {
  VkLayerDeviceCreateInfo *link = device_link(info);
  if (!link) return VK_ERROR_INITIALIZATION_FAILED;
  PFN_vkGetInstanceProcAddr instance_proc = link->u.pLayerInfo->pfnNextGetInstanceProcAddr;
  next_device_proc = link->u.pLayerInfo->pfnNextGetDeviceProcAddr;
  link->u.pLayerInfo = link->u.pLayerInfo->pNext;

  uint32_t n = info->enabledExtensionCount;
  const char **names = calloc(n + 1, sizeof *names);
  memcpy(names, info->ppEnabledExtensionNames, n * sizeof *names);
  names[n] = VK_KHR_PIPELINE_EXECUTABLE_PROPERTIES_EXTENSION_NAME;
  VkPhysicalDevicePipelineExecutablePropertiesFeaturesKHR feature = {
      VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PIPELINE_EXECUTABLE_PROPERTIES_FEATURES_KHR, (void *)info->pNext, VK_TRUE};
  VkDeviceCreateInfo changed = *info;
  VkPhysicalDeviceFeatures plain;
  if (getenv("GPU_STATS_UNROBUST")) without_checks(&changed, &plain);
  changed.pNext = &feature;
  changed.ppEnabledExtensionNames = names;
  changed.enabledExtensionCount = n + 1;

  PFN_vkCreateDevice create = (PFN_vkCreateDevice)instance_proc(NULL, "vkCreateDevice");
  VkResult result = create(physical, &changed, allocator, device);
  free(names);
  if (result != VK_SUCCESS) {
    fprintf(stderr, "stats layer: the driver makes no device with VK_KHR_pipeline_executable_properties (%d)\n", result);
    return result;
  }
  next_create = (PFN_vkCreateComputePipelines)next_device_proc(*device, "vkCreateComputePipelines");
  get_properties = (PFN_vkGetPipelineExecutablePropertiesKHR)next_device_proc(*device, "vkGetPipelineExecutablePropertiesKHR");
  get_statistics = (PFN_vkGetPipelineExecutableStatisticsKHR)next_device_proc(*device, "vkGetPipelineExecutableStatisticsKHR");
  get_texts = (PFN_vkGetPipelineExecutableInternalRepresentationsKHR)next_device_proc(
      *device, "vkGetPipelineExecutableInternalRepresentationsKHR");
  return result;
}

static void write_value(FILE *out, const VkPipelineExecutableStatisticKHR *s) {
  switch (s->format) {
  case VK_PIPELINE_EXECUTABLE_STATISTIC_FORMAT_BOOL32_KHR: fprintf(out, "\t%s=%u", s->name, s->value.b32); break;
  case VK_PIPELINE_EXECUTABLE_STATISTIC_FORMAT_INT64_KHR: fprintf(out, "\t%s=%lld", s->name, (long long)s->value.i64); break;
  case VK_PIPELINE_EXECUTABLE_STATISTIC_FORMAT_UINT64_KHR: fprintf(out, "\t%s=%llu", s->name, (unsigned long long)s->value.u64); break;
  default: fprintf(out, "\t%s=%g", s->name, s->value.f64);
  }
}

static void write_statistics(FILE *out, VkDevice device, const VkPipelineExecutableInfoKHR *which) {
  uint32_t n = 0;
  get_statistics(device, which, &n, NULL);
  VkPipelineExecutableStatisticKHR *stats = calloc(n, sizeof *stats);
  for (uint32_t i = 0; i < n; i++) stats[i].sType = VK_STRUCTURE_TYPE_PIPELINE_EXECUTABLE_STATISTIC_KHR;
  get_statistics(device, which, &n, stats);
  for (uint32_t i = 0; i < n; i++) write_value(out, &stats[i]);
  free(stats);
}

static void write_text(const char *folder, uint32_t executable, const VkPipelineExecutableInternalRepresentationKHR *text) {
  char name[VK_MAX_DESCRIPTION_SIZE], path[4096];
  snprintf(name, sizeof name, "%s", text->name);
  for (char *c = name; *c; c++)
    if (*c == ' ' || *c == '/') *c = '_';
  snprintf(path, sizeof path, "%s/%04d-%u-%s.txt", folder, pipelines_made, executable, name);
  FILE *file = fopen(path, "w");
  if (!file) return;
  fwrite(text->pData, 1, text->isText ? strlen(text->pData) : text->dataSize, file);
  fclose(file);
}

static void write_texts(const char *folder, VkDevice device, const VkPipelineExecutableInfoKHR *which) {
  uint32_t n = 0;
  get_texts(device, which, &n, NULL);
  VkPipelineExecutableInternalRepresentationKHR *texts = calloc(n, sizeof *texts);
  for (uint32_t i = 0; i < n; i++) texts[i].sType = VK_STRUCTURE_TYPE_PIPELINE_EXECUTABLE_INTERNAL_REPRESENTATION_KHR;
  get_texts(device, which, &n, texts); // their lengths
  for (uint32_t i = 0; i < n; i++) texts[i].pData = calloc(1, texts[i].dataSize + 1);
  get_texts(device, which, &n, texts);
  for (uint32_t i = 0; i < n; i++) {
    write_text(folder, which->executableIndex, &texts[i]);
    free(texts[i].pData);
  }
  free(texts);
}

// Writes down what there is of a pipeline; a driver may make several executables of one.
static void write_down(VkDevice device, VkPipeline pipeline) {
  const char *path = getenv("GPU_STATS"), *folder = getenv("GPU_STATS_CODE");
  FILE *out = path ? fopen(path, "a") : NULL;
  VkPipelineInfoKHR of = {VK_STRUCTURE_TYPE_PIPELINE_INFO_KHR, NULL, pipeline};
  uint32_t n = 0;
  get_properties(device, &of, &n, NULL);
  VkPipelineExecutablePropertiesKHR *executables = calloc(n, sizeof *executables);
  for (uint32_t i = 0; i < n; i++) executables[i].sType = VK_STRUCTURE_TYPE_PIPELINE_EXECUTABLE_PROPERTIES_KHR;
  get_properties(device, &of, &n, executables);
  for (uint32_t i = 0; i < n; i++) {
    VkPipelineExecutableInfoKHR which = {VK_STRUCTURE_TYPE_PIPELINE_EXECUTABLE_INFO_KHR, NULL, pipeline, i};
    if (out) {
      fprintf(out, "stat\t%d\t%s\t%u", pipelines_made, executables[i].name, executables[i].subgroupSize);
      write_statistics(out, device, &which);
      fputc('\n', out);
    }
    if (folder) write_texts(folder, device, &which);
  }
  free(executables);
  if (out) fclose(out);
}

static VKAPI_ATTR VkResult VKAPI_CALL create_pipelines(
    VkDevice device, VkPipelineCache cache, uint32_t n, const VkComputePipelineCreateInfo *infos,
    const VkAllocationCallbacks *allocator, VkPipeline *pipelines) {
  const char *subgroup = getenv("GPU_STATS_SUBGROUP");
  VkComputePipelineCreateInfo *changed = calloc(n, sizeof *changed);
  VkPipelineShaderStageRequiredSubgroupSizeCreateInfo *sizes = calloc(n, sizeof *sizes);
  memcpy(changed, infos, n * sizeof *changed);
  for (uint32_t i = 0; i < n; i++) {
    changed[i].flags |= VK_PIPELINE_CREATE_CAPTURE_STATISTICS_BIT_KHR;
    if (getenv("GPU_STATS_CODE")) changed[i].flags |= VK_PIPELINE_CREATE_CAPTURE_INTERNAL_REPRESENTATIONS_BIT_KHR;
    if (!subgroup) continue;
    sizes[i].sType = VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_REQUIRED_SUBGROUP_SIZE_CREATE_INFO;
    sizes[i].pNext = (void *)infos[i].stage.pNext;
    sizes[i].requiredSubgroupSize = atoi(subgroup);
    changed[i].stage.pNext = &sizes[i];
    changed[i].stage.flags &= ~VK_PIPELINE_SHADER_STAGE_CREATE_ALLOW_VARYING_SUBGROUP_SIZE_BIT;
  }
  pthread_mutex_lock(&lock);
  VkResult result = next_create(device, cache, n, changed, allocator, pipelines);
  for (uint32_t i = 0; result == VK_SUCCESS && i < n; i++, pipelines_made++) write_down(device, pipelines[i]);
  pthread_mutex_unlock(&lock);
  free(sizes);
  free(changed);
  return result;
}

EXPORT VKAPI_ATTR PFN_vkVoidFunction VKAPI_CALL stats_GetDeviceProcAddr(VkDevice device, const char *name) {
  if (!strcmp(name, "vkGetDeviceProcAddr")) return (PFN_vkVoidFunction)stats_GetDeviceProcAddr;
  if (!strcmp(name, "vkCreateComputePipelines")) return (PFN_vkVoidFunction)create_pipelines;
  return next_device_proc(device, name);
}

EXPORT VKAPI_ATTR PFN_vkVoidFunction VKAPI_CALL stats_GetInstanceProcAddr(VkInstance instance, const char *name) {
  if (!strcmp(name, "vkGetInstanceProcAddr")) return (PFN_vkVoidFunction)stats_GetInstanceProcAddr;
  if (!strcmp(name, "vkGetDeviceProcAddr")) return (PFN_vkVoidFunction)stats_GetDeviceProcAddr;
  if (!strcmp(name, "vkCreateInstance")) return (PFN_vkVoidFunction)create_instance;
  if (!strcmp(name, "vkCreateDevice")) return (PFN_vkVoidFunction)create_device;
  if (!strcmp(name, "vkCreateComputePipelines")) return (PFN_vkVoidFunction)create_pipelines;
  return next_instance_proc ? next_instance_proc(instance, name) : NULL;
}
