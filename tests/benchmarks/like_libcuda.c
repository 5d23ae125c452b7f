// The emulator behind libcuda's functions for device memory, and without its own (kw_*): what the harness of golden
// vectors meets on a GPU, as far as a CPU can show it. Device addresses are odd ones, so that none is taken for a host's.
#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static void *emulator;
static uint64_t begin[8], bytes[8];
#define AWAY 0x100000000000ull

#define FORWARD(name, declared, passed)                                        \
    int name declared {                                                        \
        if (!emulator && !(emulator = dlopen(getenv("LIKE_LIBCUDA"), RTLD_NOW))) return 999; \
        return ((int(*) declared)dlsym(emulator, #name)) passed;               \
    }
FORWARD(cuInit, (unsigned flags), (flags))
FORWARD(cuDeviceGet, (int *device, int ordinal), (device, ordinal))
FORWARD(cuDeviceGetName, (char *name, int length, int device), (name, length, device))
FORWARD(cuDriverGetVersion, (int *version), (version))
FORWARD(cuDeviceGetAttribute, (int *value, int attribute, int device), (value, attribute, device))
FORWARD(cuDevicePrimaryCtxRetain, (void **context, int device), (context, device))
FORWARD(cuCtxPushCurrent_v2, (void *context), (context))
FORWARD(cuCtxPopCurrent_v2, (void **context), (context))
FORWARD(cuLibraryLoadData, (void **l, const void *i, void *a, void *b, unsigned c, void *d, void *e, unsigned f),
        (l, i, a, b, c, d, e, f))
FORWARD(cuLibraryGetKernel, (void **kernel, void *library, const char *name), (kernel, library, name))
FORWARD(cuLibraryUnload, (void *library), (library))
FORWARD(cuCtxSynchronize, (void), ())
FORWARD(cuGetErrorString, (int code, const char **text), (code, text))

int cuMemAlloc_v2(uint64_t *address, size_t size) {
    int slot = 0;
    while (slot < 8 && bytes[slot]) ++slot;
    if (slot == 8) return 2;
    begin[slot] = (uint64_t)malloc(size);
    bytes[slot] = size;
    *address = begin[slot] + AWAY;
    return 0;
}
int cuMemFree_v2(uint64_t address) {
    for (int slot = 0; slot < 8; ++slot)
        if (bytes[slot] && begin[slot] + AWAY == address) return free((void *)begin[slot]), bytes[slot] = 0, 0;
    return 1;
}
int cuMemcpyHtoD_v2(uint64_t to, const void *from, size_t size) { return memcpy((void *)(to - AWAY), from, size), 0; }
int cuMemcpyDtoH_v2(void *to, uint64_t from, size_t size) { return memcpy(to, (void *)(from - AWAY), size), 0; }

int cuLaunchKernelEx(const void *config, void *kernel, void **values, void **extra) {
    int (*declare)(const void *, uint64_t, int, int) = (int (*)(const void *, uint64_t, int, int))dlsym(emulator, "kw_declare");
    for (int slot = 0; slot < 8; ++slot) declare((void *)begin[slot], bytes[slot], 3, 1);
    uint64_t near[2] = {*(uint64_t *)values[0] - AWAY, *(uint64_t *)values[1] - AWAY};
    void *passed[2] = {&near[0], &near[1]};
    return ((int (*)(const void *, void *, void **, void **))dlsym(emulator, "cuLaunchKernelEx"))(config, kernel, passed, extra);
}
