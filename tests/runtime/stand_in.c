/* A driver that records: what launcher.c asks of libcuda.so.1, without a GPU.
 *
 * Compiled once a session as itself and once with -DEMULATOR, which adds the emulator's functions. Tests read
 * the log and set what goes wrong through the stand_in_* functions.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { kMaxFailure = 64, kMaxParameters = 4096, kLog = 1 << 20, kDevices = 2 };

typedef struct {
    unsigned int grid_x, grid_y, grid_z, block_x, block_y, block_z, shared_bytes;
    void *stream;
    void *attributes;
    unsigned int num_attributes;
} Config;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char log_text[kLog];
static size_t log_used;
static int log_on = 1;
static char failing_call[kMaxFailure];
static int failing_code;
static int attributes[kDevices][256];
static unsigned char parameters[kMaxParameters];
static size_t parameter_bytes;
static void (*on_launch)(const void *parameters, const void *kernel);
static __thread int depth;
static __thread void *stack[16];

static void record(const char *format, ...) {
    if (!log_on) return;
    pthread_mutex_lock(&lock);
    va_list args;
    va_start(args, format);
    int written = vsnprintf(log_text + log_used, kLog - log_used, format, args);
    va_end(args);
    if (written > 0 && log_used + (size_t)written < kLog) log_used += (size_t)written;
    pthread_mutex_unlock(&lock);
}

static int fails(const char *call) { return strcmp(call, failing_call) == 0 ? failing_code : 0; }

const char *stand_in_log(void) { return log_text; }
void stand_in_logging(int on) { log_on = on; }
void stand_in_reset(void) {
    log_used = 0;
    log_text[0] = failing_call[0] = '\0';
    failing_code = 0;
    parameter_bytes = 0;
    on_launch = NULL;
}
void stand_in_fail(const char *call, int code) {
    snprintf(failing_call, sizeof failing_call, "%s", call);
    failing_code = code;
}
void stand_in_attribute(int device, int attribute, int value) { attributes[device][attribute] = value; }
void stand_in_expect(size_t bytes) { parameter_bytes = bytes; }
const unsigned char *stand_in_parameters(void) { return parameters; }
void stand_in_on_launch(void (*callback)(const void *, const void *)) { on_launch = callback; }
int stand_in_depth(void) { return depth; }

int cuInit(unsigned int flags) {
    (void)flags;
    record("init\n");
    return fails("cuInit");
}
int cuDriverGetVersion(int *version) { return *version = 13000, 0; }
int cuDeviceGetCount(int *count) { return *count = kDevices, 0; }
int cuDeviceGet(int *device, int ordinal) { return *device = ordinal + 100, 0; }
int cuDeviceGetName(char *name, int length, int device) {
    snprintf(name, (size_t)length, device == 100 ? "NVIDIA Stand-in A" : "NVIDIA Stand-in B");
    return 0;
}
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attributes[device - 100][attribute];
    return 0;
}
int cuDevicePrimaryCtxRetain(void **context, int device) {
    record("retain %d\n", device - 100);
    *context = (void *)(uintptr_t)(0xc000 + device - 100);
    return fails("cuDevicePrimaryCtxRetain");
}
int cuCtxPushCurrent_v2(void *context) {
    int code = fails("cuCtxPushCurrent_v2");
    if (code) return code;
    stack[depth++] = context;
    record("push %d\n", (int)((uintptr_t)context - 0xc000));
    return 0;
}
int cuCtxPopCurrent_v2(void **context) {
    if (depth == 0) return 201;
    *context = stack[--depth];
    record("pop %d\n", (int)((uintptr_t)*context - 0xc000));
    return 0;
}
int cuLibraryLoadData(void **library, const char *code, void *a, void *b, unsigned c, void *d, void *e, unsigned f) {
    (void)a, (void)b, (void)c, (void)d, (void)e, (void)f;
    usleep(2000); /* long enough for two threads to meet */
    record("load %.16s\n", code);
    *library = (void *)code;
    return fails("cuLibraryLoadData");
}
int cuLibraryGetKernel(void **kernel, void *library, const char *name) {
    static char names[256][128];
    static int count;
    (void)library;
    int code = fails("cuLibraryGetKernel");
    if (code) return code;
    pthread_mutex_lock(&lock);
    snprintf(names[count % 256], 128, "%s", name);
    *kernel = names[count++ % 256];
    pthread_mutex_unlock(&lock);
    return 0;
}
int cuKernelSetAttribute(int attribute, int value, const char *kernel, int device) {
    record("set %s %d %d on %d\n", kernel, attribute, value, device - 100);
    return fails("cuKernelSetAttribute");
}
int cuLaunchKernelEx(const Config *config, const char *kernel, void **values, void **extra) {
    (void)extra;
    int code = fails("cuLaunchKernelEx");
    if (code) return code;
    if (depth == 0) return 201; /* CUDA_ERROR_INVALID_CONTEXT */
    record("launch %s grid %u %u %u block %u %u %u shared %u stream %lu context %d\n", kernel, config->grid_x,
           config->grid_y, config->grid_z, config->block_x, config->block_y, config->block_z, config->shared_bytes,
           (unsigned long)(uintptr_t)config->stream, (int)((uintptr_t)stack[depth - 1] - 0xc000));
    if (parameter_bytes) memcpy(parameters, values[0], parameter_bytes);
    if (on_launch) on_launch(values[0], kernel);
    return 0;
}
int cuGetErrorName(int code, const char **name) {
    *name = code == 719 ? "CUDA_ERROR_LAUNCH_FAILED" : code == 209 ? "CUDA_ERROR_NO_BINARY_FOR_GPU" : "CUDA_ERROR";
    return 0;
}
int cuGetErrorString(int code, const char **text) {
    (void)code;
    *text = "it went wrong";
    return 0;
}

/* An exchange interface like torch's, for tensors of a class that tests make. */
typedef struct {
    void *data;
    int32_t device_type, device_id, ndim;
    uint8_t code, bits;
    uint16_t lanes;
    int64_t *shape, *strides;
    uint64_t byte_offset;
} Tensor;

static struct {
    const void *object;
    Tensor tensor;
    int64_t shape[8], strides[8];
} tensors[16];
static int num_tensors;
static uint64_t byte_offset;

void stand_in_byte_offset(uint64_t bytes) { byte_offset = bytes; }

void stand_in_tensor(const void *object, uint64_t data, int dtype, int device_type, int device_id, int ndim,
                     const int64_t *shape, const int64_t *strides) {
    int at = num_tensors++ % 16;
    tensors[at].object = object;
    memcpy(tensors[at].shape, shape, sizeof(int64_t) * (size_t)ndim);
    memcpy(tensors[at].strides, strides, sizeof(int64_t) * (size_t)ndim);
    tensors[at].tensor = (Tensor){.data = (void *)(uintptr_t)data,
                                  .device_type = device_type,
                                  .device_id = device_id,
                                  .ndim = ndim,
                                  .code = (uint8_t)(dtype >> 8),
                                  .bits = (uint8_t)dtype,
                                  .lanes = 1,
                                  .shape = tensors[at].shape,
                                  .strides = tensors[at].strides};
}

static int find_tensor(const void *object, Tensor *out) {
    for (int age = 1; age <= 16; age++) { /* the newest first: Python reuses addresses */
        int at = (num_tensors + 16 - age) % 16;
        if (tensors[at].object != object) continue;
        *out = tensors[at].tensor;
        out->byte_offset = byte_offset;
        return 0;
    }
    return -1;
}

static int current_stream(int type, int32_t id, void **stream) {
    (void)type;
    *stream = (void *)(uintptr_t)(4096 + id);
    return 0;
}

static struct {
    uint32_t major, minor;
    void *previous;
    void *allocate, *from_object, *to_object;
    int (*read)(const void *, Tensor *);
    int (*stream)(int, int32_t, void **);
} older = {1, 3, NULL, NULL, NULL, NULL, find_tensor, current_stream}, newer = {2, 0, &older, NULL, NULL, NULL, NULL, NULL};

void *stand_in_exchange(void) { return &newer; }

#ifdef EMULATOR
static int (*poll_callback)(void);
static __thread char report[64];
int kw_declare(const void *data, size_t bytes, int access, int initialised) {
    record("declare %lx %zu %d %d\n", (unsigned long)(uintptr_t)data, bytes, access, initialised);
    return fails("kw_declare");
}
void kw_poll(int (*callback)(void)) { poll_callback = callback; }
int kw_configure(const char *text) {
    record("configure %s\n", text);
    return fails("kw_configure");
}
const char *kw_message(void) { return failing_code ? "race on k_smem" : ""; }
const char *kw_report(void) {
    snprintf(report, sizeof report, "{\"flops\": 7}");
    return report;
}
static int wait_ms = 10000;
void stand_in_wait_for(int milliseconds) { wait_ms = milliseconds; }
/* A long launch: asks every millisecond whether to stop. */
void stand_in_wait_launch(const void *values, const void *kernel) {
    (void)values, (void)kernel;
    for (int i = 0; i < wait_ms; i++) {
        usleep(1000);
        if (poll_callback && poll_callback()) return;
    }
}
#endif
