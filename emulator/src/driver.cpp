// The exported functions: those of the CUDA driver API that a launcher needs, and the emulator's own (kw_*).
// Device addresses are host addresses, launches are synchronous.
// SPDX-License-Identifier: Apache-2.0
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <set>

#include "launch.h"
#include "tensor_map.h"

#define KW_EXPORT extern "C" __attribute__((visibility("default")))

namespace {

using namespace kw;

struct LaunchConfig {  // CUlaunchConfig
    unsigned grid[3], block[3], shared_bytes;
    void* stream;
    struct Attribute {
        int id;
        char pad[4];
        unsigned value[16];
    }* attributes;
    unsigned num_attributes;
};
static_assert(sizeof(LaunchConfig::Attribute) == 72 && sizeof(LaunchConfig) == 56, "layout of CUlaunchConfig");

constexpr int kAttributeIgnore = 0, kAttributeClusterDimension = 4;
constexpr int kDefaultShared = 49152, kMaxThreadsPerBlock = 1024;

struct Process {
    std::mutex mutex;
    Config config;
    std::set<const void*> modules, kernels;
    int (*poll)() = nullptr;
};
Process& process() {
    static Process* kProcess = new Process;  // never destroyed: threads may outlive static destruction
    return *kProcess;
}

struct ThreadState {
    std::string message, report;
    std::vector<Declared> declared;
    std::string options;  // settings of the next launch only
    std::vector<void*> contexts;
};
ThreadState& thread_state() {
    static thread_local ThreadState state;
    return state;
}

char g_context;  // its address is the one context there is

int fail(Result code, const std::string& message) {
    thread_state().message = message;
    return code;
}

// No exception may cross into the caller.
template <class F>
int guarded(F f) {
    try {
        return f();
    } catch (const std::bad_alloc&) {
        return fail(kOutOfMemory, "the emulator ran out of host memory");
    } catch (const std::exception& error) {
        return fail(kUnknown, std::string("internal error: ") + error.what());
    } catch (...) {
        return kUnknown;
    }
}

Kernel* find_kernel(void* handle) {
    Process& p = process();
    std::lock_guard<std::mutex> lock(p.mutex);
    return p.kernels.count(handle) ? static_cast<Kernel*>(handle) : nullptr;
}

int load(void** library, const char* image) {
    if (!library || !image) return fail(kInvalidValue, "cuLibraryLoadData needs an image and a place for the handle");
    if (std::strncmp(image, "\177ELF", 4) == 0)
        return fail(kInvalidImage, "the image is a cubin; the emulator runs PTX text. Load the .ptx that was built beside it");
    if (std::strncmp(image, "\x50\xed\x55\xba", 4) == 0)
        return fail(kInvalidImage, "the image is a fat binary; the emulator runs PTX text. Load the .ptx that was built beside it");
    std::unique_ptr<Module> module;
    try {
        module = load_module(image);
    } catch (const LoadError& error) {
        return fail(kInvalidPtx, "PTX line " + std::to_string(error.line) + ": " + error.what());
    }
    Process& p = process();
    std::lock_guard<std::mutex> lock(p.mutex);
    const int sm = p.config.device.sm;
    if (module->target_sm > sm || (module->target_specific && module->target_sm != sm))
        return fail(kNoBinary, "the PTX is for sm_" + std::to_string(module->target_sm) + (module->target_specific ? "a" : "") + ", the emulated device is sm_" + std::to_string(sm) +
                                   "; set sm=" + std::to_string(module->target_sm) + " to run it");
    p.modules.insert(module.get());
    for (const auto& kernel : module->kernels) p.kernels.insert(kernel.get());
    *library = module.release();
    return kSuccess;
}

int check_launch(const Kernel& kernel, const LaunchConfig& c, const Config& config, int max_dynamic) {
    const std::string name = "kernel " + kernel.name + ": ";
    const uint64_t threads = static_cast<uint64_t>(c.block[0]) * c.block[1] * c.block[2];
    const std::string block = std::to_string(c.block[0]) + " x " + std::to_string(c.block[1]) + " x " + std::to_string(c.block[2]) + " threads";
    if (threads == 0 || threads > kMaxThreadsPerBlock || c.block[0] > 1024 || c.block[1] > 1024 || c.block[2] > 64)
        return fail(kInvalidValue, name + "a block of " + block + " is not possible; it has 1 to 1,024");
    if (c.grid[0] == 0 || c.grid[1] == 0 || c.grid[2] == 0 || c.grid[0] > 0x7fffffffu || c.grid[1] > 65535 || c.grid[2] > 65535)
        return fail(kInvalidValue, name + "a grid of " + std::to_string(c.grid[0]) + " x " + std::to_string(c.grid[1]) + " x " + std::to_string(c.grid[2]) +
                                       " blocks is not possible; the limits are 1 to 2,147,483,647, 65,535 and 65,535");
    const uint32_t* most = kernel.maxntid;
    if (most[0] && threads > static_cast<uint64_t>(most[0]) * most[1] * most[2])
        return fail(kInvalidValue, name + "a block of " + block + " exceeds the kernel's __launch_bounds__ of " + std::to_string(static_cast<uint64_t>(most[0]) * most[1] * most[2]));
    const uint32_t* exact = kernel.reqntid;
    if (exact[0] && (c.block[0] != exact[0] || c.block[1] != exact[1] || c.block[2] != exact[2]))
        return fail(kInvalidValue, name + "the block must have the size in its .reqntid, got " + block);
    const int unset = kDefaultShared - static_cast<int>(kernel.static_shared);
    const int64_t limit = max_dynamic >= 0 ? max_dynamic : unset;
    if (static_cast<int64_t>(c.shared_bytes) > limit)
        return fail(kInvalidValue, name + std::to_string(c.shared_bytes) + " bytes of dynamic shared memory exceed " + std::to_string(limit) +
                                       (max_dynamic >= 0 ? ", which cuKernelSetAttribute(MAX_DYNAMIC_SHARED_SIZE_BYTES) allowed"
                                                         : ", the limit without cuKernelSetAttribute(MAX_DYNAMIC_SHARED_SIZE_BYTES)"));
    if (static_cast<int64_t>(kernel.dynamic_shared_at) + c.shared_bytes > config.device.smem_optin)
        return fail(kInvalidValue, name + std::to_string(static_cast<uint64_t>(kernel.dynamic_shared_at) + c.shared_bytes) +
                                       " bytes of shared memory exceed the device's " + std::to_string(config.device.smem_optin) + " a block");
    for (unsigned n = 0; n < c.num_attributes; ++n) {
        const LaunchConfig::Attribute& a = c.attributes[n];
        if (a.id == kAttributeIgnore) continue;
        if (a.id == kAttributeClusterDimension) {
            if (a.value[0] * a.value[1] * a.value[2] == 1) continue;
            return fail(kNotSupported, name + "thread block clusters are not modelled yet");
        }
        return fail(kNotSupported, name + "launch attribute " + std::to_string(a.id) + " is not modelled");
    }
    return kSuccess;
}

int launch(const LaunchConfig* c, void* handle, void** params, void** extra) {
    ThreadState& state = thread_state();
    std::vector<Declared> declared;
    declared.swap(state.declared);
    std::string options;
    options.swap(state.options);
    state.message.clear();
    state.report = "{}";
    if (!c) return fail(kInvalidValue, "cuLaunchKernelEx needs a configuration");
    if (extra) return fail(kNotSupported, "cuLaunchKernelEx with `extra` is not modelled; pass kernelParams");
    const Kernel* kernel = find_kernel(handle);
    if (!kernel) return fail(kInvalidHandle, "not the handle of a loaded kernel");
    if (!params && !kernel->params.empty()) return fail(kInvalidValue, "kernel " + kernel->name + " takes " + std::to_string(kernel->params.size()) + " parameters");
    Config config;
    int (*poll)() = nullptr;
    int max_dynamic = -1;
    {
        Process& p = process();
        std::lock_guard<std::mutex> lock(p.mutex);
        config = p.config;
        poll = p.poll;
        max_dynamic = kernel->max_dynamic_shared;
    }
    if (!configure(config, options, state.message)) return kInvalidValue;
    if (const int bad = check_launch(*kernel, *c, config, max_dynamic)) return bad;
    LaunchArguments arguments;
    std::copy(c->grid, c->grid + 3, arguments.grid);
    std::copy(c->block, c->block + 3, arguments.block);
    arguments.dynamic_shared = c->shared_bytes;
    arguments.params = params;
    LaunchResult result = run_launch(*kernel, arguments, config, std::move(declared), poll);
    if (config.print && !result.printed.empty()) {  // as CUDA does when the host waits
        std::fwrite(result.printed.data(), 1, result.printed.size(), stdout);
        std::fflush(stdout);
    }
    state.message = std::move(result.message);
    state.report = std::move(result.report);
    return result.code;
}

}  // namespace

KW_EXPORT int cuInit(unsigned flags) { return flags ? kInvalidValue : kSuccess; }
KW_EXPORT int cuDriverGetVersion(int* version) { return version ? (*version = 13000, kSuccess) : kInvalidValue; }
KW_EXPORT int cuDeviceGetCount(int* count) { return count ? (*count = 1, kSuccess) : kInvalidValue; }
KW_EXPORT int cuDeviceGet(int* device, int ordinal) {
    if (!device) return kInvalidValue;
    if (ordinal != 0) return fail(kInvalidDevice, "the emulator has one device, number 0");
    *device = 0;
    return kSuccess;
}
KW_EXPORT int cuDeviceGetName(char* name, int length, int device) {
    if (!name || length < 1) return kInvalidValue;
    if (device != 0) return kInvalidDevice;
    return guarded([&] {
        Process& p = process();
        std::lock_guard<std::mutex> lock(p.mutex);
        const std::string& from = p.config.device.name;
        const size_t n = std::min(from.size(), static_cast<size_t>(length) - 1);
        std::memcpy(name, from.data(), n);
        name[n] = 0;
        return kSuccess;
    });
}
KW_EXPORT int cuDeviceGetAttribute(int* value, int attribute, int device) {
    if (!value) return kInvalidValue;
    if (device != 0) return kInvalidDevice;
    Process& p = process();
    std::lock_guard<std::mutex> lock(p.mutex);
    const Device& d = p.config.device;
    switch (attribute) {  // CU_DEVICE_ATTRIBUTE_*
        case 1: *value = kMaxThreadsPerBlock; break;  // MAX_THREADS_PER_BLOCK
        case 2: *value = 1024; break;  // MAX_BLOCK_DIM_X
        case 3: *value = 1024; break;  // MAX_BLOCK_DIM_Y
        case 4: *value = 64; break;  // MAX_BLOCK_DIM_Z
        case 5: *value = 0x7fffffff; break;  // MAX_GRID_DIM_X
        case 6: *value = 65535; break;  // MAX_GRID_DIM_Y
        case 7: *value = 65535; break;  // MAX_GRID_DIM_Z
        case 8: *value = kDefaultShared; break;  // MAX_SHARED_MEMORY_PER_BLOCK
        case 10: *value = kLanes; break;  // WARP_SIZE
        case 16: *value = d.sms; break;  // MULTIPROCESSOR_COUNT
        case 39: *value = d.max_threads_per_sm; break;  // MAX_THREADS_PER_MULTIPROCESSOR
        case 75: *value = d.sm / 10; break;  // COMPUTE_CAPABILITY_MAJOR
        case 76: *value = d.sm % 10; break;  // COMPUTE_CAPABILITY_MINOR
        case 81: *value = d.smem_per_sm; break;  // MAX_SHARED_MEMORY_PER_MULTIPROCESSOR
        case 82: *value = d.regs_per_sm; break;  // MAX_REGISTERS_PER_MULTIPROCESSOR
        case 97: *value = d.smem_optin; break;  // MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
        case 106: *value = d.max_blocks_per_sm; break;  // MAX_BLOCKS_PER_MULTIPROCESSOR
        default: return fail(kInvalidValue, "device attribute " + std::to_string(attribute) + " is not modelled");
    }
    return kSuccess;
}
KW_EXPORT int cuDevicePrimaryCtxRetain(void** context, int device) {
    if (!context) return kInvalidValue;
    if (device != 0) return kInvalidDevice;
    *context = &g_context;
    return kSuccess;
}
KW_EXPORT int cuDevicePrimaryCtxRelease_v2(int device) { return device ? kInvalidDevice : kSuccess; }
KW_EXPORT int cuCtxPushCurrent_v2(void* context) {
    return guarded([&] {
        if (context != &g_context) return fail(kInvalidContext, "not the emulator's context");
        thread_state().contexts.push_back(context);
        return static_cast<int>(kSuccess);
    });
}
KW_EXPORT int cuCtxPopCurrent_v2(void** context) {
    auto& stack = thread_state().contexts;
    if (stack.empty()) return fail(kInvalidContext, "no context is current");
    if (context) *context = stack.back();
    stack.pop_back();
    return kSuccess;
}
KW_EXPORT int cuCtxGetCurrent(void** context) {
    if (!context) return kInvalidValue;
    auto& stack = thread_state().contexts;
    *context = stack.empty() ? nullptr : stack.back();
    return kSuccess;
}
KW_EXPORT int cuLibraryLoadData(void** library, const void* image, void*, void**, unsigned, void*, void**, unsigned) {
    return guarded([&] { return load(library, static_cast<const char*>(image)); });
}
KW_EXPORT int cuLibraryUnload(void* library) {
    return guarded([&] {
        Process& p = process();
        std::lock_guard<std::mutex> lock(p.mutex);
        if (!p.modules.erase(library)) return fail(kInvalidHandle, "not the handle of a loaded library");
        Module* module = static_cast<Module*>(library);
        for (const auto& kernel : module->kernels) p.kernels.erase(kernel.get());
        delete module;
        return static_cast<int>(kSuccess);
    });
}
KW_EXPORT int cuLibraryGetKernel(void** kernel, void* library, const char* name) {
    return guarded([&] {
        if (!kernel || !name) return static_cast<int>(kInvalidValue);
        Process& p = process();
        std::lock_guard<std::mutex> lock(p.mutex);
        if (!p.modules.count(library)) return fail(kInvalidHandle, "not the handle of a loaded library");
        std::string known;
        for (const auto& one : static_cast<Module*>(library)->kernels) {
            if (one->name == name) return *kernel = one.get(), static_cast<int>(kSuccess);
            known += " " + one->name;
        }
        return fail(kNotFound, "no kernel " + std::string(name) + " in the module; it has" + (known.empty() ? " none" : known));
    });
}
KW_EXPORT int cuKernelGetFunction(void** function, void* kernel) {
    if (!function) return kInvalidValue;
    if (!find_kernel(kernel)) return fail(kInvalidHandle, "not the handle of a loaded kernel");
    *function = kernel;
    return kSuccess;
}
KW_EXPORT int cuKernelSetAttribute(int attribute, int value, void* handle, int device) {
    return guarded([&] {
        Kernel* kernel = find_kernel(handle);
        if (!kernel) return fail(kInvalidHandle, "not the handle of a loaded kernel");
        if (device != 0) return static_cast<int>(kInvalidDevice);
        if (attribute == 9) return static_cast<int>(kSuccess);  // PREFERRED_SHARED_MEMORY_CARVEOUT: a hint
        if (attribute != 8) return fail(kInvalidValue, "kernel attribute " + std::to_string(attribute) + " is not modelled");
        Process& p = process();
        std::lock_guard<std::mutex> lock(p.mutex);
        const int most = p.config.device.smem_optin - static_cast<int>(kernel->static_shared);
        if (value < 0 || value > most)
            return fail(kInvalidValue, "kernel " + kernel->name + ": " + std::to_string(value) + " bytes of dynamic shared memory; the device allows " + std::to_string(most));
        kernel->max_dynamic_shared = value;
        return static_cast<int>(kSuccess);
    });
}
KW_EXPORT int cuKernelGetAttribute(int* value, int attribute, void* handle, int device) {
    return guarded([&] {
        Kernel* kernel = find_kernel(handle);
        if (!value) return static_cast<int>(kInvalidValue);
        if (!kernel) return fail(kInvalidHandle, "not the handle of a loaded kernel");
        if (device != 0) return static_cast<int>(kInvalidDevice);
        Process& p = process();
        std::lock_guard<std::mutex> lock(p.mutex);
        const uint32_t* most = kernel->maxntid;
        switch (attribute) {  // CU_FUNC_ATTRIBUTE_*
            case 0: *value = most[0] ? static_cast<int>(most[0] * most[1] * most[2]) : kMaxThreadsPerBlock; break;  // MAX_THREADS_PER_BLOCK
            case 1: *value = static_cast<int>(kernel->static_shared); break;  // SHARED_SIZE_BYTES
            case 3: *value = static_cast<int>(kernel->local_bytes); break;  // LOCAL_SIZE_BYTES
            case 5: *value = kernel->module->version_major * 10 + kernel->module->version_minor; break;  // PTX_VERSION
            case 8: *value = kernel->max_dynamic_shared >= 0 ? kernel->max_dynamic_shared : kDefaultShared - static_cast<int>(kernel->static_shared); break;  // MAX_DYNAMIC_SHARED_SIZE_BYTES
            default: return fail(kInvalidValue, "kernel attribute " + std::to_string(attribute) + " is not modelled");
        }
        return static_cast<int>(kSuccess);
    });
}
KW_EXPORT int cuKernelGetParamInfo(void* handle, size_t index, size_t* offset, size_t* bytes) {
    return guarded([&] {
        const Kernel* kernel = find_kernel(handle);
        if (!kernel) return fail(kInvalidHandle, "not the handle of a loaded kernel");
        if (!offset || index >= kernel->params.size()) return static_cast<int>(kInvalidValue);
        *offset = kernel->params[index].offset;
        if (bytes) *bytes = kernel->params[index].bytes;
        return static_cast<int>(kSuccess);
    });
}
KW_EXPORT int cuLaunchKernelEx(const LaunchConfig* config, void* function, void** params, void** extra) {
    return guarded([&] { return launch(config, function, params, extra); });
}
KW_EXPORT int cuTensorMapEncodeTiled(void* map, int type, unsigned rank, void* address, const uint64_t* extents, const uint64_t* strides, const unsigned* box,
                                     const unsigned* steps, int interleave, int swizzle, int promotion, int fill) {
    return guarded([&] {
        std::string message;
        const TensorMapRequest request{type, interleave, swizzle, promotion, fill, rank, reinterpret_cast<uint64_t>(address), extents, strides, box, steps};
        const int code = encode_tensor_map(request, map, message);
        return code == kSuccess ? code : fail(static_cast<Result>(code), message);
    });
}
KW_EXPORT int cuStreamSynchronize(void*) { return kSuccess; }
KW_EXPORT int cuCtxSynchronize() { return kSuccess; }

namespace {
struct ErrorText {
    int code;
    const char *name, *text;
};
const ErrorText kErrors[] = {
    {kSuccess, "CUDA_SUCCESS", "no error"},
    {kInvalidValue, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {kOutOfMemory, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {kInvalidDevice, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {kInvalidImage, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"},
    {kInvalidContext, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {kNoBinary, "CUDA_ERROR_NO_BINARY_FOR_GPU", "no kernel image is available for execution on the device"},
    {kInvalidPtx, "CUDA_ERROR_INVALID_PTX", "a PTX JIT compilation failed"},
    {kInvalidHandle, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {kNotFound, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {kLaunchFailed, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {kNotSupported, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
    {kUnknown, "CUDA_ERROR_UNKNOWN", "unknown error"},
};
int error_text(int code, const char** out, bool name) {
    if (!out) return kInvalidValue;
    for (const ErrorText& error : kErrors)
        if (error.code == code) return *out = name ? error.name : error.text, kSuccess;
    *out = nullptr;
    return kInvalidValue;
}
}  // namespace

KW_EXPORT int cuGetErrorName(int code, const char** text) { return error_text(code, text, true); }
KW_EXPORT int cuGetErrorString(int code, const char** text) { return error_text(code, text, false); }

KW_EXPORT int kw_declare(const void* ptr, uint64_t bytes, int access, int initialised) {
    return guarded([&] {
        if (access < 1 || access > 3) return fail(kInvalidValue, "kw_declare: access is 1 (read), 2 (write) or 3");
        if (bytes == 0) return static_cast<int>(kSuccess);
        Declared range;
        range.begin = reinterpret_cast<uint64_t>(ptr);
        range.end = range.begin + bytes;
        if (range.end < range.begin) return fail(kInvalidValue, "kw_declare: the range wraps around");
        range.access = access;
        range.initialised = initialised != 0;
        if (!initialised && (access & kRead)) range.written.assign(bytes, 0);
        thread_state().declared.push_back(std::move(range));
        return static_cast<int>(kSuccess);
    });
}
KW_EXPORT int kw_configure(const char* text) {
    return guarded([&] {
        if (!text) return static_cast<int>(kInvalidValue);
        Process& p = process();
        std::lock_guard<std::mutex> lock(p.mutex);
        std::string message;
        if (!configure(p.config, text, message)) return fail(kInvalidValue, message);
        return static_cast<int>(kSuccess);
    });
}
// As kw_configure, for this thread's next launch only.
KW_EXPORT int kw_launch_options(const char* text) {
    return guarded([&] {
        if (!text) return static_cast<int>(kInvalidValue);
        Config scratch;
        std::string message;
        if (!configure(scratch, text, message)) return fail(kInvalidValue, message);
        thread_state().options = text;
        return static_cast<int>(kSuccess);
    });
}
KW_EXPORT int kw_poll(int (*callback)(void)) {
    Process& p = process();
    std::lock_guard<std::mutex> lock(p.mutex);
    p.poll = callback;
    return kSuccess;
}
KW_EXPORT const char* kw_message(void) { return thread_state().message.c_str(); }
KW_EXPORT const char* kw_report(void) { return thread_state().report.c_str(); }
