/* _launcher: how a call on torch tensors becomes a launch through the CUDA driver's interface.
 *
 * One generic extension on CPython's limited interface; no torch, CUDA or Python-version dependence:
 *
 *     cc -O2 -std=gnu11 -fPIC -shared -fvisibility=hidden -Wall -Wextra -Werror \
 *        -DPy_LIMITED_API=0x030b0000 -I<sysconfig include> launcher.c -o _launcher.abi3.so -ldl -lm -pthread
 *
 * This file is the whole of it, so that its digest is the digest of what is built. Its parts:
 *     1. the driver's interface     what is looked up in libcuda, the emulator or a stand-in
 *     2. Driver                     opening it, devices, contexts, errors
 *     3. Kernel                     one kernel on one device, loaded once
 *     4. tensors                    what is read of a torch tensor, or of a tuple of plain integers
 *     5. Operation                  binding, routing table, parameter block, launch
 *     6. the module
 *
 * Everything runs with the GIL held except the launch itself. The binding arrives from Python (binding.py)
 * with names resolved to indices; indices are checked here once, so that launching need not check them.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <dlfcn.h>
#include <math.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
    kMaxTensors = 32,
    kMaxDims = 8,
    kMaxSizes = 32,
    kMaxScalars = 16,
    kMaxConstants = 32,
    kMaxCode = 64, /* instructions of an expression */
    kMaxDevices = 64,
    kMaxParameterBytes = 4096, /* the limit of a kernel's parameters before CUDA 12.1 */
};

/* ------------------------------------------------------------------ 1. the driver's interface */

typedef int CUresult;
typedef int CUdevice;
typedef struct CUctx_st *CUcontext;
typedef struct CUlib_st *CUlibrary;
typedef struct CUkern_st *CUkernel;
typedef struct CUfunc_st *CUfunction;
typedef struct CUstream_st *CUstream;

typedef struct {
    unsigned int grid_x, grid_y, grid_z;
    unsigned int block_x, block_y, block_z;
    unsigned int shared_bytes;
    CUstream stream;
    void *attributes;
    unsigned int num_attributes;
} CUlaunchConfig;

enum { kAttributeMaxDynamicShared = 8 }; /* CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES */

typedef struct {
    CUresult (*cuInit)(unsigned int);
    CUresult (*cuDriverGetVersion)(int *);
    CUresult (*cuDeviceGetCount)(int *);
    CUresult (*cuDeviceGet)(CUdevice *, int);
    CUresult (*cuDeviceGetName)(char *, int, CUdevice);
    CUresult (*cuDeviceGetAttribute)(int *, int, CUdevice);
    CUresult (*cuDevicePrimaryCtxRetain)(CUcontext *, CUdevice);
    CUresult (*cuCtxPushCurrent_v2)(CUcontext);
    CUresult (*cuCtxPopCurrent_v2)(CUcontext *);
    CUresult (*cuLibraryLoadData)(CUlibrary *, const void *, void *, void **, unsigned int, void *, void **,
                                  unsigned int);
    CUresult (*cuLibraryGetKernel)(CUkernel *, CUlibrary, const char *);
    CUresult (*cuKernelSetAttribute)(int, int, CUkernel, CUdevice);
    CUresult (*cuLaunchKernelEx)(const CUlaunchConfig *, CUfunction, void **, void **);
    CUresult (*cuGetErrorName)(CUresult, const char **);
    CUresult (*cuGetErrorString)(CUresult, const char **);
    /* May be absent. */
    CUresult (*cuKernelGetFunction)(CUfunction *, CUkernel);
    int (*kw_declare)(const void *, size_t, int, int);
    void (*kw_poll)(int (*)(void));
    int (*kw_configure)(const char *);
    const char *(*kw_message)(void);
    const char *(*kw_report)(void);
} DriverApi;

typedef struct {
    const char *name;
    size_t offset;
    bool required;
} Symbol;

#define SYMBOL(name, required) {#name, offsetof(DriverApi, name), required}
static const Symbol kSymbols[] = {
    SYMBOL(cuInit, true),
    SYMBOL(cuDriverGetVersion, true),
    SYMBOL(cuDeviceGetCount, true),
    SYMBOL(cuDeviceGet, true),
    SYMBOL(cuDeviceGetName, true),
    SYMBOL(cuDeviceGetAttribute, true),
    SYMBOL(cuDevicePrimaryCtxRetain, true),
    SYMBOL(cuCtxPushCurrent_v2, true),
    SYMBOL(cuCtxPopCurrent_v2, true),
    SYMBOL(cuLibraryLoadData, true),
    SYMBOL(cuLibraryGetKernel, true),
    SYMBOL(cuKernelSetAttribute, true),
    SYMBOL(cuLaunchKernelEx, true),
    SYMBOL(cuGetErrorName, true),
    SYMBOL(cuGetErrorString, true),
    SYMBOL(cuKernelGetFunction, false),
    SYMBOL(kw_declare, false),
    SYMBOL(kw_poll, false),
    SYMBOL(kw_configure, false),
    SYMBOL(kw_message, false),
    SYMBOL(kw_report, false),
};

/* What setup() hands over. Owned for the life of the process, as the extension is never unloaded. */
static PyObject *g_driver_error;   /* class raised when the driver cannot be used */
static PyObject *g_launch_error;   /* class raised when a load or a launch fails */
static PyObject *g_tensor_type;    /* torch.Tensor */
static PyObject *g_parameter_type; /* torch.nn.Parameter */
static PyObject *g_grad_enabled;   /* torch.is_grad_enabled */
static PyObject *g_is_neg;         /* torch.Tensor.is_neg, an unbound method */
static PyObject *g_guards;         /* functions without arguments: launch() leaves it to Python if one says true */
static PyObject *g_requires_grad;  /* the interned string */

/* Counts forks: a driver initialised under another count belongs to the parent and must not be used. */
static unsigned long g_forks;

static void count_fork(void) { g_forks++; }

/* ------------------------------------------------------------------ 2. Driver */

typedef struct {
    PyObject_HEAD
    char *path;
    /* Those of the module that made this driver: a folder imported under two names has one extension, two of each. */
    PyObject *driver_error, *launch_error;
    void *handle; /* NULL until opened */
    DriverApi api;
    bool initialised; /* cuInit succeeded */
    unsigned long forks;
    int num_devices;
    CUcontext contexts[kMaxDevices]; /* primary contexts, retained at first use, never released */
} Driver;

static PyTypeObject *g_driver_class;

/* A poll callback for the emulator: nonzero stops the launch, with the exception left in this thread.
 * Python handles signals in the main thread alone. Any other must not ask for the GIL from within the emulator: while
 * the interpreter ends, asking ends the thread, and unwinding through C++ would abort the process. */
static int poll_signals(void) {
    if (syscall(SYS_gettid) != getpid()) return 0;
    PyGILState_STATE state = PyGILState_Ensure();
    int stop = PyErr_Occurred() != NULL || PyErr_CheckSignals() != 0;
    PyGILState_Release(state);
    return stop;
}

static int driver_open(Driver *self) {
    if (self->handle) return 0;
    void *handle = dlopen(self->path, RTLD_NOW | RTLD_LOCAL);
    if (!handle) {
        const char *why = dlerror();
        PyErr_Format(self->driver_error,
                     strchr(self->path, '/')
                         ? "%s cannot be opened: %s. Build the module again on this kind of machine, or correct the path."
                         : "%s cannot be opened: %s. A CUDA tensor needs NVIDIA's driver, which installs libcuda.so.1; "
                           "without a GPU pass CPU tensors, which run in the emulator.",
                     self->path, why ? why : "no reason given");
        return -1;
    }
    DriverApi api;
    memset(&api, 0, sizeof api);
    for (size_t i = 0; i < sizeof kSymbols / sizeof kSymbols[0]; i++) {
        void *address = dlsym(handle, kSymbols[i].name);
        if (!address && kSymbols[i].required) {
            PyErr_Format(self->driver_error,
                         "%s lacks %s, so it is too old or no CUDA driver. Install a driver for CUDA 12.0 or newer.",
                         self->path, kSymbols[i].name);
            dlclose(handle);
            return -1;
        }
        memcpy((char *)&api + kSymbols[i].offset, &address, sizeof address);
    }
    self->api = api;
    self->handle = handle;
    if (api.kw_poll) api.kw_poll(poll_signals);
    return 0;
}

/* Raises `type` with the driver's words for `code`; `what` says which step failed, on what. */
static void raise_result(Driver *self, PyObject *type, CUresult code, const char *what, const char *call) {
    const char *name = NULL, *text = NULL, *more = NULL;
    if (self->api.cuGetErrorName(code, &name) != 0 || !name) name = "unknown error";
    if (self->api.cuGetErrorString(code, &text) != 0 || !text) text = "no description";
    if (self->api.kw_message) more = self->api.kw_message();
    if (more && !*more) more = NULL;
    PyErr_Format(type, "%s: %s failed with %s (%d): %s%s%s", what, call, name, code, text, more ? "\n" : "",
                 more ? more : "");
}

static int driver_check(Driver *self, CUresult code, const char *call) {
    if (code == 0) return 0;
    raise_result(self, self->driver_error, code, self->path, call);
    return -1;
}

/* Opens and initialises; refuses in a forked child. */
static int driver_init(Driver *self) {
    if (self->initialised) {
        if (self->forks == g_forks) return 0;
        PyErr_Format(self->driver_error,
                     "%s was initialised before this process was forked, and a driver cannot be used in the child. "
                     "Start workers with the 'spawn' method, or make the first call after the fork.",
                     self->path);
        return -1;
    }
    if (driver_open(self) < 0) return -1;
    if (driver_check(self, self->api.cuInit(0), "cuInit") < 0) return -1;
    int count = 0;
    if (driver_check(self, self->api.cuDeviceGetCount(&count), "cuDeviceGetCount") < 0) return -1;
    self->num_devices = count < kMaxDevices ? count : kMaxDevices;
    self->forks = g_forks;
    self->initialised = true;
    return 0;
}

static int driver_device(Driver *self, int ordinal, CUdevice *device) {
    if (driver_init(self) < 0) return -1;
    if (ordinal < 0 || ordinal >= self->num_devices) {
        PyErr_Format(self->driver_error, "%s has %d device(s); there is no number %d.", self->path, self->num_devices,
                     ordinal);
        return -1;
    }
    return driver_check(self, self->api.cuDeviceGet(device, ordinal), "cuDeviceGet");
}

static int driver_context(Driver *self, int ordinal) {
    if (self->contexts[ordinal]) return 0;
    CUdevice device;
    if (driver_device(self, ordinal, &device) < 0) return -1;
    return driver_check(self, self->api.cuDevicePrimaryCtxRetain(&self->contexts[ordinal], device),
                        "cuDevicePrimaryCtxRetain");
}

static PyObject *Driver_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"path", "driver_error", "launch_error", NULL};
    const char *path;
    PyObject *driver_error = g_driver_error ? g_driver_error : PyExc_RuntimeError;
    PyObject *launch_error = g_launch_error ? g_launch_error : PyExc_RuntimeError;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "s|OO:Driver", names, &path, &driver_error, &launch_error))
        return NULL;
    Driver *self = (Driver *)PyType_GenericAlloc(type, 0);
    if (!self) return NULL;
    Py_INCREF(driver_error);
    Py_INCREF(launch_error);
    self->driver_error = driver_error, self->launch_error = launch_error;
    self->path = strdup(path);
    if (!self->path) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    return (PyObject *)self;
}

static void Driver_dealloc(PyObject *object) {
    /* The library stays open: kernels and contexts of it may be in use by the device. */
    PyTypeObject *type = Py_TYPE(object);
    free(((Driver *)object)->path);
    Py_XDECREF(((Driver *)object)->driver_error);
    Py_XDECREF(((Driver *)object)->launch_error);
    PyObject_Free(object);
    Py_DECREF(type);
}

static PyObject *Driver_open(PyObject *self, PyObject *unused) {
    (void)unused;
    if (driver_open((Driver *)self) < 0) return NULL;
    Py_RETURN_NONE;
}

static PyObject *Driver_version(PyObject *object, PyObject *unused) {
    (void)unused;
    Driver *self = (Driver *)object;
    int version = 0;
    if (driver_init(self) < 0) return NULL;
    if (driver_check(self, self->api.cuDriverGetVersion(&version), "cuDriverGetVersion") < 0) return NULL;
    return PyLong_FromLong(version);
}

static PyObject *Driver_device_count(PyObject *object, PyObject *unused) {
    (void)unused;
    if (driver_init((Driver *)object) < 0) return NULL;
    return PyLong_FromLong(((Driver *)object)->num_devices);
}

static PyObject *Driver_device_name(PyObject *object, PyObject *args) {
    Driver *self = (Driver *)object;
    int ordinal;
    CUdevice device;
    char name[256] = "";
    if (!PyArg_ParseTuple(args, "i:device_name", &ordinal)) return NULL;
    if (driver_device(self, ordinal, &device) < 0) return NULL;
    if (driver_check(self, self->api.cuDeviceGetName(name, sizeof name, device), "cuDeviceGetName") < 0) return NULL;
    name[sizeof name - 1] = '\0';
    return PyUnicode_DecodeUTF8(name, (Py_ssize_t)strlen(name), "replace");
}

static PyObject *Driver_device_attribute(PyObject *object, PyObject *args) {
    Driver *self = (Driver *)object;
    int ordinal, attribute, value = 0;
    CUdevice device;
    if (!PyArg_ParseTuple(args, "ii:device_attribute", &ordinal, &attribute)) return NULL;
    if (driver_device(self, ordinal, &device) < 0) return NULL;
    if (driver_check(self, self->api.cuDeviceGetAttribute(&value, attribute, device), "cuDeviceGetAttribute") < 0)
        return NULL;
    return PyLong_FromLong(value);
}

static PyObject *Driver_configure(PyObject *object, PyObject *args) {
    Driver *self = (Driver *)object;
    const char *text;
    if (!PyArg_ParseTuple(args, "s:configure", &text)) return NULL;
    if (driver_open(self) < 0) return NULL;
    if (!self->api.kw_configure) {
        PyErr_Format(self->driver_error, "%s is not an emulator, so it cannot be configured with '%s'.", self->path, text);
        return NULL;
    }
    if (self->api.kw_configure(text) != 0) {
        const char *why = self->api.kw_message ? self->api.kw_message() : NULL;
        PyErr_Format(self->driver_error, "%s refused the configuration '%s': %s", self->path, text,
                     why && *why ? why : "no reason given");
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *text_or_empty(const char *text) {
    if (!text) text = "";
    return PyUnicode_DecodeUTF8(text, (Py_ssize_t)strlen(text), "replace");
}

static PyObject *Driver_message(PyObject *object, PyObject *unused) {
    (void)unused;
    Driver *self = (Driver *)object;
    if (driver_open(self) < 0) return NULL;
    return text_or_empty(self->api.kw_message ? self->api.kw_message() : NULL);
}

static PyObject *Driver_report(PyObject *object, PyObject *unused) {
    (void)unused;
    Driver *self = (Driver *)object;
    if (driver_open(self) < 0) return NULL;
    return text_or_empty(self->api.kw_report ? self->api.kw_report() : NULL);
}

static PyObject *Driver_get_path(PyObject *self, void *unused) {
    (void)unused;
    return PyUnicode_DecodeFSDefault(((Driver *)self)->path);
}

static PyObject *Driver_get_is_emulator(PyObject *self, void *unused) {
    (void)unused;
    if (driver_open((Driver *)self) < 0) return NULL;
    return PyBool_FromLong(((Driver *)self)->api.kw_declare != NULL);
}

static PyMethodDef kDriverMethods[] = {
    {"open", Driver_open, METH_NOARGS, "Open the library and find the driver's functions; once."},
    {"version", Driver_version, METH_NOARGS, "Return what cuDriverGetVersion says, as in 13000."},
    {"device_count", Driver_device_count, METH_NOARGS, "Return the number of devices."},
    {"device_name", Driver_device_name, METH_VARARGS, "device_name(ordinal): the device's name."},
    {"device_attribute", Driver_device_attribute, METH_VARARGS, "device_attribute(ordinal, attribute): an int."},
    {"configure", Driver_configure, METH_VARARGS, "configure(text): pass settings to the emulator."},
    {"message", Driver_message, METH_NOARGS, "Return the emulator's last message in this thread."},
    {"report", Driver_report, METH_NOARGS, "Return the emulator's report on this thread's last launch, as JSON."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef kDriverGetSet[] = {
    {"path", Driver_get_path, NULL, "The library's path, as given.", NULL},
    {"is_emulator", Driver_get_is_emulator, NULL, "Whether the library interprets PTX on the CPU.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot kDriverSlots[] = {
    {Py_tp_doc, "Driver(path, driver_error, launch_error): a library with the CUDA driver's interface.\n\n"
                "Opened at first use."},
    {Py_tp_new, Driver_new},
    {Py_tp_dealloc, Driver_dealloc},
    {Py_tp_methods, kDriverMethods},
    {Py_tp_getset, kDriverGetSet},
    {0, NULL},
};
static PyType_Spec kDriverSpec = {"_launcher.Driver", sizeof(Driver), 0, Py_TPFLAGS_DEFAULT, kDriverSlots};

/* ------------------------------------------------------------------ 3. Kernel */

typedef struct {
    PyObject_HEAD
    Driver *driver;
    int ordinal;
    char *name;  /* the variant, for messages */
    char *entry; /* the symbol */
    unsigned int threads, shared_bytes;
    int num_constants;
    int64_t constants[kMaxConstants];
    CUkernel kernel; /* NULL until loaded; never unloaded */
} Kernel;

static PyTypeObject *g_kernel_class;

static PyObject *Kernel_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"driver", "ordinal", "name", "entry", "threads", "smem_bytes", "constants", NULL};
    PyObject *driver, *constants;
    const char *name, *entry;
    int ordinal, threads, shared_bytes;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!issiiO!:Kernel", names, g_driver_class, &driver, &ordinal, &name,
                                     &entry, &threads, &shared_bytes, &PyTuple_Type, &constants))
        return NULL;
    Py_ssize_t count = PyTuple_Size(constants);
    if (ordinal < 0 || ordinal >= kMaxDevices || threads < 1 || shared_bytes < 0 || count > kMaxConstants) {
        PyErr_Format(PyExc_ValueError, "%s: ordinal %d, threads %d, smem_bytes %d or %zd constants is out of range",
                     name, ordinal, threads, shared_bytes, count);
        return NULL;
    }
    Kernel *self = (Kernel *)PyType_GenericAlloc(type, 0);
    if (!self) return NULL;
    Py_INCREF(driver);
    self->driver = (Driver *)driver;
    self->ordinal = ordinal;
    self->threads = (unsigned int)threads;
    self->shared_bytes = (unsigned int)shared_bytes;
    self->num_constants = (int)count;
    self->name = strdup(name);
    self->entry = strdup(entry);
    if (!self->name || !self->entry) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        self->constants[i] = PyLong_AsLongLong(PyTuple_GetItem(constants, i));
        if (self->constants[i] < 0) {
            if (!PyErr_Occurred()) PyErr_Format(PyExc_ValueError, "%s: a constant must not be negative", name);
            Py_DECREF(self);
            return NULL;
        }
    }
    return (PyObject *)self;
}

static void Kernel_dealloc(PyObject *object) {
    Kernel *self = (Kernel *)object;
    PyTypeObject *type = Py_TYPE(object);
    Py_XDECREF((PyObject *)self->driver);
    free(self->name);
    free(self->entry);
    PyObject_Free(object);
    Py_DECREF(type);
}

/* load(image): the caller holds a lock of its own, so that an image is loaded once. */
static PyObject *Kernel_load(PyObject *object, PyObject *image) {
    Kernel *self = (Kernel *)object;
    Driver *driver = self->driver;
    const char *bytes = PyBytes_Check(image) ? PyBytes_AsString(image) : NULL;
    if (!bytes) {
        PyErr_SetString(PyExc_TypeError, "image must be bytes: a cubin, or PTX");
        return NULL;
    }
    if (driver_init(driver) < 0) return NULL;
    if (self->kernel) Py_RETURN_NONE;
    CUdevice device;
    if (driver_device(driver, self->ordinal, &device) < 0 || driver_context(driver, self->ordinal) < 0) return NULL;
    DriverApi *api = &driver->api;
    CUlibrary library = NULL;
    CUkernel kernel = NULL;
    CUcontext popped;
    const char *call = "cuCtxPushCurrent";
    CUresult code;
    Py_BEGIN_ALLOW_THREADS
    code = api->cuCtxPushCurrent_v2(driver->contexts[self->ordinal]);
    if (code == 0) {
        call = "cuLibraryLoadData";
        code = api->cuLibraryLoadData(&library, bytes, NULL, NULL, 0, NULL, NULL, 0);
        if (code == 0) {
            call = "cuLibraryGetKernel";
            code = api->cuLibraryGetKernel(&kernel, library, self->entry);
        }
        if (code == 0) {
            call = "cuKernelSetAttribute";
            code = api->cuKernelSetAttribute(kAttributeMaxDynamicShared, (int)self->shared_bytes, kernel, device);
        }
        if (code == 0 && api->cuKernelGetFunction) {
            /* Puts the code on the device now, as a first launch inside a graph capture may not. */
            CUfunction function;
            call = "cuKernelGetFunction";
            code = api->cuKernelGetFunction(&function, kernel);
        }
        api->cuCtxPopCurrent_v2(&popped);
    }
    Py_END_ALLOW_THREADS
    if (PyErr_Occurred()) return NULL;
    if (code != 0) {
        raise_result(driver, driver->launch_error, code, self->name, call);
        return NULL;
    }
    self->kernel = kernel;
    Py_RETURN_NONE;
}

static PyObject *Kernel_get_name(PyObject *self, void *unused) {
    (void)unused;
    return PyUnicode_FromString(((Kernel *)self)->name);
}

static PyObject *Kernel_get_loaded(PyObject *self, void *unused) {
    (void)unused;
    return PyBool_FromLong(((Kernel *)self)->kernel != NULL);
}

static PyMethodDef kKernelMethods[] = {
    {"load", Kernel_load, METH_O, "load(image): load the bytes onto the device; once."},
    {NULL, NULL, 0, NULL},
};
static PyGetSetDef kKernelGetSet[] = {
    {"name", Kernel_get_name, NULL, "The variant.", NULL},
    {"loaded", Kernel_get_loaded, NULL, "Whether it can be launched.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
static PyType_Slot kKernelSlots[] = {
    {Py_tp_doc, "Kernel(driver, ordinal, name, entry, threads, smem_bytes, constants): a kernel on one device."},
    {Py_tp_new, Kernel_new},
    {Py_tp_dealloc, Kernel_dealloc},
    {Py_tp_methods, kKernelMethods},
    {Py_tp_getset, kKernelGetSet},
    {0, NULL},
};
static PyType_Spec kKernelSpec = {"_launcher.Kernel", sizeof(Kernel), 0, Py_TPFLAGS_DEFAULT, kKernelSlots};

/* ------------------------------------------------------------------ 4. tensors */

/* DLPack 1.x, as in dlpack.h. */
typedef struct {
    void *data;
    struct {
        int32_t type, id;
    } device;
    int32_t ndim;
    struct {
        uint8_t code, bits;
        uint16_t lanes;
    } dtype;
    int64_t *shape, *strides;
    uint64_t byte_offset;
} DLTensor;

typedef struct ExchangeHeader {
    struct {
        uint32_t major, minor;
    } version;
    struct ExchangeHeader *previous;
} ExchangeHeader;

typedef struct {
    ExchangeHeader header;
    void *managed_tensor_allocator, *managed_tensor_from_py_object, *managed_tensor_to_py_object;
    int (*dltensor_from_py_object_no_sync)(void *, DLTensor *);
    int (*current_work_stream)(int, int32_t, void **);
} ExchangeApi;

enum { kDLPackMajor = 1, kDeviceCpu = 1, kDeviceCuda = 2 };

static const ExchangeApi *g_exchange; /* NULL: only tuples of plain integers are read */

/* What a launch needs to know of a tensor. dtype is DLPack's code * 256 + bits. */
typedef struct {
    char *data;
    int ndim, dtype, device_type, device_id;
    int64_t shape[kMaxDims], strides[kMaxDims];
} TensorView;

/* Three answers everywhere below: 1 as usual, 0 unusual (Python decides), -1 an exception is set. */

static int read_exchange(PyObject *object, TensorView *view) {
    if (!g_exchange) return 0;
    DLTensor tensor;
    if (g_exchange->dltensor_from_py_object_no_sync(object, &tensor) != 0) {
        PyErr_Clear(); /* meta, sparse, functorch's wrappers: Python says what is wrong */
        return 0;
    }
    if (tensor.ndim < 0 || tensor.ndim > kMaxDims || tensor.dtype.lanes != 1 || (tensor.ndim && !tensor.strides))
        return 0;
    view->data = (char *)tensor.data + tensor.byte_offset;
    view->ndim = tensor.ndim;
    view->dtype = tensor.dtype.code << 8 | tensor.dtype.bits;
    view->device_type = tensor.device.type;
    view->device_id = tensor.device.id;
    memcpy(view->shape, tensor.shape, sizeof(int64_t) * (size_t)tensor.ndim);
    memcpy(view->strides, tensor.strides, sizeof(int64_t) * (size_t)tensor.ndim);
    return 1;
}

static int read_ints(PyObject *tuple, int64_t *values, int *count) {
    if (!PyTuple_Check(tuple)) {
        PyErr_SetString(PyExc_TypeError, "shape and strides of a plain tensor must be tuples");
        return -1;
    }
    Py_ssize_t size = PyTuple_Size(tuple);
    if (size > kMaxDims) return 0;
    for (Py_ssize_t i = 0; i < size; i++) {
        values[i] = PyLong_AsLongLong(PyTuple_GetItem(tuple, i));
        if (values[i] == -1 && PyErr_Occurred()) return -1;
    }
    *count = (int)size;
    return 1;
}

/* (data_ptr, dtype, device_type, device_id, shape, strides), all of them ints or tuples of ints. */
static int read_plain(PyObject *tuple, TensorView *view) {
    unsigned long long data;
    PyObject *shape, *strides;
    int num_strides = 0;
    if (!PyArg_ParseTuple(tuple, "KiiiOO", &data, &view->dtype, &view->device_type, &view->device_id, &shape, &strides))
        return -1;
    view->data = (char *)(uintptr_t)data;
    int status = read_ints(shape, view->shape, &view->ndim);
    if (status != 1) return status;
    status = read_ints(strides, view->strides, &num_strides);
    if (status != 1) return status;
    return num_strides == view->ndim;
}

/* Whether the tensor hides something that its bytes do not tell: a gradient to record, a pending minus sign. */
static int hides_something(PyObject *object, bool grad_enabled) {
    if (grad_enabled) {
        PyObject *requires_grad = PyObject_GetAttr(object, g_requires_grad);
        if (!requires_grad) return -1;
        Py_DECREF(requires_grad);
        if (requires_grad != Py_False) return 1;
    }
    PyObject *is_neg = PyObject_CallFunctionObjArgs(g_is_neg, object, NULL);
    if (!is_neg) return -1;
    Py_DECREF(is_neg);
    return is_neg != Py_False;
}

/* What a written tensor hides is the caller's to check: mostly it has just made the tensor. */
static int read_tensor(PyObject *object, bool is_written, bool grad_enabled, TensorView *view) {
    PyTypeObject *type = Py_TYPE(object);
    /* Exactly these: a subclass (FakeTensor among them) inherits the exchange interface and means something else. */
    if ((PyObject *)type == g_tensor_type || (PyObject *)type == g_parameter_type) {
        int status = read_exchange(object, view);
        if (status != 1 || is_written) return status;
        status = hides_something(object, grad_enabled);
        return status < 0 ? -1 : !status;
    }
    if (type == &PyTuple_Type) return read_plain(object, view);
    return 0;
}

/* The bytes from the first to behind the last element; every size is positive, no stride is negative. */
static uint64_t hull_bytes(const TensorView *view) {
    uint64_t last = 0;
    for (int d = 0; d < view->ndim; d++) last += (uint64_t)(view->shape[d] - 1) * (uint64_t)view->strides[d];
    return (last + 1) * (uint64_t)((view->dtype & 255) / 8);
}

/* Whether no two elements share an address, proved by sorting the strides; false may be a false alarm. */
static bool elements_disjoint(const TensorView *view) {
    int order[kMaxDims], count = 0;
    for (int d = 0; d < view->ndim; d++) {
        if (view->shape[d] == 1) continue;
        int at = count++;
        for (; at > 0 && view->strides[order[at - 1]] > view->strides[d]; at--) order[at] = order[at - 1];
        order[at] = d;
    }
    uint64_t extent = 1;
    for (int i = 0; i < count; i++) {
        uint64_t stride = (uint64_t)view->strides[order[i]];
        if (stride < extent) return false;
        extent += stride * (uint64_t)(view->shape[order[i]] - 1);
    }
    return true;
}

/* ------------------------------------------------------------------ 5. Operation */

enum { kPtr = 0, kI64 = 1, kI32 = 2, kF32 = 3 };                     /* field types */
enum { kFromPointer = 0, kFromStride = 1, kFromTerm = 2, kFromScalar = 3 }; /* field sources */
enum { kOpPush, kOpName, kOpAdd, kOpSub, kOpMul, kOpFloorDiv, kOpCeilDiv, kOpMin, kOpMax, kOpChoose };
enum { kLayoutRows = 0, kLayoutDense = 1, kLayoutAny = 2 };

/* An expression for a stack machine (expressions.py). A name is the index of a size, the number of sizes + the index of
   a scalar, or -1 - the index of a kernel's constant. */
typedef struct {
    int op;
    int64_t operand;
} Instruction;

typedef struct {
    int count;
    Instruction *code;
} Term;

typedef struct {
    int type, source, a, b; /* a, b: tensor and dim, or scalar */
    Term term;
    int offset;
} Field;

typedef struct {
    int ndim, dims[kMaxDims]; /* indices of sizes */
    int dtype;                /* fixed, or -1: the problem's */
    int layout;
    int writes; /* 0: read; 1: written; 2: read and written */
    bool optional;
} TensorSpec;

typedef struct {
    int size; /* given as None it is this size to the power, or -1: the default */
    double power, fallback;
    bool is_whole;
} ScalarSpec;

typedef struct {
    int dtype, flags;
    Kernel *kernel;
    int64_t bounds[]; /* num_fixed exact values, then lo, hi of every size */
} Row;

/* Which rows of a group take a value of one size: the bits of the last interval that starts at or below it. */
typedef struct {
    int size, num_starts;
    int64_t *starts; /* ascending, the first below every value */
    uint64_t *bits;  /* one set of rows for each start */
} Column;

/* The rows of one dtype, one choice of flags and one problem, in the order in which they are tried. */
typedef struct {
    const Row *first; /* its dtype, flags and fixed sizes are the group's */
    int num_rows, num_words, num_columns;
    int *rows;       /* indices of the device's rows */
    Column *columns; /* of the sizes that some row bounds; none in a group that is searched row by row */
    bool linear;
} Group;

typedef struct {
    int type, id;
    int num_rows;
    Row **rows;
    int num_groups, num_slots; /* slots: a power of two, more than twice the groups */
    Group *groups;
    int *slots; /* hash of dtype, flags and fixed sizes -> group + 1, 0 for none; the next slot is tried in turn */
    /* The last call answered by a row: the same dtype, flags and sizes get the same row again. */
    int last_dtype, last_flags, last_row;
    int64_t last_sizes[kMaxSizes];
} Device;

typedef struct {
    PyObject_HEAD
    int num_sizes, num_tensors, num_divides, num_scalars, num_fixed, num_fields, num_constants, parameter_bytes;
    int fixed[kMaxSizes];
    int divides[kMaxSizes][2];
    int size_defaults[kMaxSizes]; /* a size that no tensor has is this other one, or -1: 0 */
    ScalarSpec scalars[kMaxScalars];
    TensorSpec tensors[kMaxTensors];
    Field *fields;
    Term grid[3];
    int num_devices;
    Device *devices[kMaxDevices];
} Operation;

static PyTypeObject *g_operation_class;

typedef struct {
    TensorView views[kMaxTensors];
    bool present[kMaxTensors];
    double scalars[kMaxScalars];
    int64_t sizes[kMaxSizes];
    int dtype, flags, device_type, device_id;
} Call;

/* Reads the code and runs it once in thought, so that the machine needs no checks. */
static int parse_term(const Operation *op, PyObject *object, Term *term) {
    Py_ssize_t count = PyTuple_Check(object) ? PyTuple_Size(object) : 0;
    int depth = 0;
    bool ok = count > 0 && count <= kMaxCode;
    term->code = calloc(kMaxCode, sizeof(Instruction));
    if (!term->code) return PyErr_NoMemory(), -1;
    for (Py_ssize_t i = 0; i < count && ok; i++) {
        Instruction *one = &term->code[i];
        long long operand;
        if (!PyArg_ParseTuple(PyTuple_GetItem(object, i), "iL", &one->op, &operand)) return -1;
        one->operand = operand;
        ok = one->op >= kOpPush && one->op <= kOpChoose;
        if (one->op == kOpName)
            ok = ok && (operand >= 0 ? operand < op->num_sizes + op->num_scalars : -1 - operand < op->num_constants);
        int taken = one->op <= kOpName ? 0 : one->op == kOpChoose ? 3 : 2;
        ok = ok && depth >= taken;
        depth += 1 - taken;
    }
    term->count = (int)count;
    if (ok && depth == 1) return 0;
    PyErr_SetString(PyExc_ValueError, "a term of the binding is malformed");
    return -1;
}

static int parse_tensor(const Operation *op, PyObject *object, TensorSpec *spec) {
    PyObject *dims;
    int optional;
    if (!PyArg_ParseTuple(object, "O!iipi", &PyTuple_Type, &dims, &spec->dtype, &spec->writes, &optional, &spec->layout)) return -1;
    spec->optional = optional;
    spec->ndim = (int)PyTuple_Size(dims);
    if (spec->ndim < 1 || spec->ndim > kMaxDims || spec->layout < kLayoutRows || spec->layout > kLayoutAny) {
        PyErr_SetString(PyExc_ValueError, "a tensor of the binding has an unknown layout, too few or too many dimensions");
        return -1;
    }
    for (int d = 0; d < spec->ndim; d++) {
        long size = PyLong_AsLong(PyTuple_GetItem(dims, d));
        if (size < 0 || size >= op->num_sizes) {
            if (!PyErr_Occurred()) PyErr_SetString(PyExc_ValueError, "a dimension of the binding is out of range");
            return -1;
        }
        spec->dims[d] = (int)size;
    }
    return 0;
}

static int parse_field(Operation *op, PyObject *object, Field *field) {
    PyObject *term;
    if (!PyArg_ParseTuple(object, "iiiiO", &field->type, &field->source, &field->a, &field->b, &term)) return -1;
    bool ok = field->type >= kPtr && field->type <= kF32 && field->a >= 0 && field->b >= 0;
    if (field->source == kFromTerm) {
        if (parse_term(op, term, &field->term) < 0) return -1;
        ok = ok && (field->type == kI64 || field->type == kI32);
    } else if (field->source == kFromScalar) {
        ok = ok && field->a < op->num_scalars && field->type != kPtr;
    } else if (field->source == kFromPointer) {
        ok = ok && field->a < op->num_tensors && field->type == kPtr;
    } else {
        ok = ok && field->source == kFromStride && field->a < op->num_tensors && field->type == kI64 &&
             field->b < op->tensors[field->a].ndim;
    }
    int bytes = field->type == kPtr || field->type == kI64 ? 8 : 4;
    int offset = (op->parameter_bytes + bytes - 1) / bytes * bytes;
    if (!ok || offset + bytes > kMaxParameterBytes) {
        PyErr_SetString(PyExc_ValueError, "a field of the binding is out of range");
        return -1;
    }
    field->offset = offset;
    op->parameter_bytes = offset + bytes;
    return 0;
}

/* Fills self from the lowered binding; what is missing or out of range raises. */
static int parse_binding(Operation *op, PyObject *size_defaults, PyObject *tensors, PyObject *divides, PyObject *scalars,
                         PyObject *fixed, PyObject *fields, PyObject *grid) {
    op->num_tensors = (int)PyTuple_Size(tensors);
    op->num_divides = (int)PyTuple_Size(divides);
    op->num_scalars = (int)PyTuple_Size(scalars);
    op->num_fixed = (int)PyTuple_Size(fixed);
    int num_fields = (int)PyTuple_Size(fields);
    if (op->num_sizes < 1 || op->num_sizes > kMaxSizes || op->num_tensors < 1 || op->num_tensors > kMaxTensors ||
        op->num_divides > kMaxSizes || op->num_scalars > kMaxScalars || op->num_fixed > kMaxSizes ||
        op->num_constants < 0 || op->num_constants > kMaxConstants || num_fields > kMaxParameterBytes ||
        PyTuple_Size(grid) != 3 || PyTuple_Size(size_defaults) != op->num_sizes) {
        PyErr_SetString(PyExc_ValueError, "the binding has too few or too many entries");
        return -1;
    }
    for (int i = 0; i < op->num_sizes; i++) {
        long size = PyLong_AsLong(PyTuple_GetItem(size_defaults, i));
        if (size == -1 && PyErr_Occurred()) return -1;
        if (size < -1 || size >= op->num_sizes) goto range;
        op->size_defaults[i] = (int)size;
    }
    for (int i = 0; i < op->num_tensors; i++)
        if (parse_tensor(op, PyTuple_GetItem(tensors, i), &op->tensors[i]) < 0) return -1;
    for (int i = 0; i < op->num_divides; i++) {
        int *pair = op->divides[i];
        if (!PyArg_ParseTuple(PyTuple_GetItem(divides, i), "ii", &pair[0], &pair[1])) return -1;
        if (pair[0] < 0 || pair[0] >= op->num_sizes || pair[1] < 0 || pair[1] >= op->num_sizes) goto range;
    }
    for (int i = 0; i < op->num_scalars; i++) {
        ScalarSpec *spec = &op->scalars[i];
        int is_whole;
        if (!PyArg_ParseTuple(PyTuple_GetItem(scalars, i), "iddp", &spec->size, &spec->power, &spec->fallback, &is_whole))
            return -1;
        spec->is_whole = is_whole;
        if (spec->size < -1 || spec->size >= op->num_sizes) goto range;
    }
    for (int i = 0; i < op->num_fixed; i++) {
        long size = PyLong_AsLong(PyTuple_GetItem(fixed, i));
        if (size == -1 && PyErr_Occurred()) return -1;
        if (size < 0 || size >= op->num_sizes) goto range;
        op->fixed[i] = (int)size;
    }
    op->fields = calloc((size_t)num_fields + 1, sizeof(Field));
    if (!op->fields) return PyErr_NoMemory(), -1;
    for (; op->num_fields < num_fields; op->num_fields++)
        if (parse_field(op, PyTuple_GetItem(fields, op->num_fields), &op->fields[op->num_fields]) < 0) return -1;
    op->parameter_bytes = (op->parameter_bytes + 7) / 8 * 8;
    for (int axis = 0; axis < 3; axis++) {
        if (parse_term(op, PyTuple_GetItem(grid, axis), &op->grid[axis]) < 0) return -1;
    }
    return 0;
range:
    PyErr_SetString(PyExc_ValueError, "an index of the binding is out of range");
    return -1;
}

static PyObject *Operation_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"num_sizes", "num_constants", "size_defaults", "tensors", "divides", "scalars",
                            "fixed",     "fields",        "grid",          NULL};
    PyObject *size_defaults, *tensors, *divides, *scalars, *fixed, *fields, *grid;
    int num_sizes, num_constants;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "iiO!O!O!O!O!O!O!:Operation", names, &num_sizes, &num_constants,
                                     &PyTuple_Type, &size_defaults, &PyTuple_Type, &tensors, &PyTuple_Type, &divides, &PyTuple_Type, &scalars,
                                     &PyTuple_Type, &fixed, &PyTuple_Type, &fields, &PyTuple_Type, &grid))
        return NULL;
    Operation *self = (Operation *)PyType_GenericAlloc(type, 0);
    if (!self) return NULL;
    self->num_sizes = num_sizes;
    self->num_constants = num_constants;
    if (parse_binding(self, size_defaults, tensors, divides, scalars, fixed, fields, grid) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static void free_device(Device *device) {
    if (!device) return;
    for (int i = 0; i < device->num_rows; i++) {
        Py_XDECREF((PyObject *)device->rows[i]->kernel);
        free(device->rows[i]);
    }
    for (int g = 0; g < device->num_groups; g++) {
        Group *group = &device->groups[g];
        for (int c = 0; c < group->num_columns; c++) free(group->columns[c].starts), free(group->columns[c].bits);
        free(group->columns);
        free(group->rows);
    }
    free(device->groups);
    free(device->slots);
    free(device->rows);
    free(device);
}

static void Operation_dealloc(PyObject *object) {
    Operation *self = (Operation *)object;
    PyTypeObject *type = Py_TYPE(object);
    for (int i = 0; i < self->num_devices; i++) free_device(self->devices[i]);
    /* One more than was read: the field that was refused. */
    for (int i = 0; self->fields && i <= self->num_fields; i++) free(self->fields[i].term.code);
    free(self->fields);
    for (int axis = 0; axis < 3; axis++) free(self->grid[axis].code);
    PyObject_Free(object);
    Py_DECREF(type);
}

static Row *parse_row(const Operation *op, PyObject *object) {
    int dtype, flags;
    PyObject *fixed, *lo, *hi, *kernel;
    if (!PyTuple_Check(object)) {
        PyErr_SetString(PyExc_TypeError, "a row must be a tuple");
        return NULL;
    }
    if (!PyArg_ParseTuple(object, "iiO!O!O!O!", &dtype, &flags, &PyTuple_Type, &fixed, &PyTuple_Type, &lo,
                          &PyTuple_Type, &hi, g_kernel_class, &kernel))
        return NULL;
    if (PyTuple_Size(fixed) != op->num_fixed || PyTuple_Size(lo) != op->num_sizes ||
        PyTuple_Size(hi) != op->num_sizes || ((Kernel *)kernel)->num_constants != op->num_constants) {
        PyErr_Format(PyExc_ValueError, "the row of %s does not fit the binding", ((Kernel *)kernel)->name);
        return NULL;
    }
    Row *row = calloc(1, sizeof(Row) + sizeof(int64_t) * (size_t)(op->num_fixed + 2 * op->num_sizes));
    if (!row) return PyErr_NoMemory(), NULL;
    row->dtype = dtype, row->flags = flags;
    int64_t *out = row->bounds;
    for (int i = 0; i < op->num_fixed; i++) *out++ = PyLong_AsLongLong(PyTuple_GetItem(fixed, i));
    for (int i = 0; i < op->num_sizes; i++) {
        *out++ = PyLong_AsLongLong(PyTuple_GetItem(lo, i));
        *out++ = PyLong_AsLongLong(PyTuple_GetItem(hi, i));
    }
    if (PyErr_Occurred()) {
        free(row);
        return NULL;
    }
    Py_INCREF(kernel);
    row->kernel = (Kernel *)kernel;
    return row;
}

/* Rows of one group beyond which its index, whose size grows with their square, is not made. */
enum { kMaxIndexedRows = 2048 };

static uint64_t problem_hash(int dtype, int flags, const int64_t *sizes, const int *fixed, int num_fixed) {
    uint64_t hash = 0x9e3779b97f4a7c15u * (uint64_t)(dtype * 64 + flags + 1);
    for (int i = 0; i < num_fixed; i++)
        hash = (hash ^ (uint64_t)sizes[fixed ? fixed[i] : i]) * 0xff51afd7ed558ccdu, hash ^= hash >> 32;
    return hash;
}

/* The group of a problem, whose fixed sizes are sizes[fixed[i]], or sizes[i] where fixed is NULL. */
static Group *find_group(const Device *device, int num_fixed, int dtype, int flags, const int64_t *sizes,
                         const int *fixed, int *slot_out) {
    int mask = device->num_slots - 1;
    int slot = (int)(problem_hash(dtype, flags, sizes, fixed, num_fixed) & (uint64_t)mask);
    for (; device->slots[slot]; slot = (slot + 1) & mask) {
        Group *group = &device->groups[device->slots[slot] - 1];
        bool same = group->first->dtype == dtype && group->first->flags == flags;
        for (int i = 0; i < num_fixed && same; i++) same = group->first->bounds[i] == sizes[fixed ? fixed[i] : i];
        if (same) return group;
    }
    if (slot_out) *slot_out = slot;
    return NULL;
}

static int compare_starts(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* Index the rows of a group by one size. No row bounds it: no column. Returns false without memory. */
static bool index_column(const Operation *op, const Device *device, Group *group, int size) {
    int at = op->num_fixed + 2 * size, count = 0;
    bool bounded = false;
    for (int r = 0; r < group->num_rows; r++) {
        const int64_t *bound = device->rows[group->rows[r]]->bounds + at;
        bounded |= bound[0] > 0 || bound[1] < INT64_MAX;
    }
    if (!bounded) return true;
    Column *column = &group->columns[group->num_columns++];
    column->size = size;
    column->starts = malloc(sizeof(int64_t) * (2 * (size_t)group->num_rows + 1));
    if (!column->starts) return false;
    column->starts[count++] = INT64_MIN;
    for (int r = 0; r < group->num_rows; r++) {
        const int64_t *bound = device->rows[group->rows[r]]->bounds + at;
        column->starts[count++] = bound[0];
        if (bound[1] < INT64_MAX) column->starts[count++] = bound[1] + 1;
    }
    qsort(column->starts, (size_t)count, sizeof(int64_t), compare_starts);
    for (int i = 0; i < count; i++)
        if (!i || column->starts[i] != column->starts[column->num_starts - 1])
            column->starts[column->num_starts++] = column->starts[i];
    column->bits = calloc((size_t)column->num_starts * (size_t)group->num_words, sizeof(uint64_t));
    if (!column->bits) return false;
    for (int s = 0; s < column->num_starts; s++)
        for (int r = 0; r < group->num_rows; r++) {
            const int64_t *bound = device->rows[group->rows[r]]->bounds + at;
            if (column->starts[s] >= bound[0] && column->starts[s] <= bound[1])
                column->bits[(size_t)s * (size_t)group->num_words + (size_t)r / 64] |= 1ull << (r % 64);
        }
    return true;
}

/* Part a device's rows into groups and index each, so that the time of a look-up does not grow with the table. */
static bool index_rows(const Operation *op, Device *device) {
    device->num_slots = 8;
    while (device->num_slots <= 2 * device->num_rows) device->num_slots *= 2;
    device->slots = calloc((size_t)device->num_slots, sizeof(int));
    device->groups = calloc((size_t)device->num_rows + 1, sizeof(Group));
    if (!device->slots || !device->groups) return false;
    int *group_of = malloc(sizeof(int) * ((size_t)device->num_rows + 1));
    if (!group_of) return false;
    for (int r = 0; r < device->num_rows; r++) {
        const Row *row = device->rows[r];
        int slot = 0;
        Group *group = find_group(device, op->num_fixed, row->dtype, row->flags, row->bounds, NULL, &slot);
        if (!group) {
            group = &device->groups[device->num_groups++];
            group->first = row;
            device->slots[slot] = device->num_groups;
        }
        group_of[r] = (int)(group - device->groups);
        group->num_rows++;
    }
    bool made = true;
    for (int g = 0; g < device->num_groups && made; g++) {
        Group *group = &device->groups[g];
        group->linear = group->num_rows > kMaxIndexedRows;
        group->num_words = (group->num_rows + 63) / 64;
        group->rows = malloc(sizeof(int) * (size_t)group->num_rows);
        group->columns = calloc((size_t)op->num_sizes + 1, sizeof(Column));
        made = group->rows && group->columns;
        group->num_rows = 0;
    }
    for (int r = 0; r < device->num_rows && made; r++) {
        Group *group = &device->groups[group_of[r]];
        group->rows[group->num_rows++] = r;
    }
    for (int g = 0; g < device->num_groups && made; g++)
        for (int i = 0; i < op->num_sizes && made && !device->groups[g].linear; i++)
            made = index_column(op, device, &device->groups[g], i);
    free(group_of);
    return made;
}

/* add_device(device_type, device_id, rows): in the order in which they are tried. */
static PyObject *Operation_add_device(PyObject *object, PyObject *args) {
    Operation *self = (Operation *)object;
    int type, id;
    PyObject *rows;
    if (!PyArg_ParseTuple(args, "iiO!:add_device", &type, &id, &PyTuple_Type, &rows)) return NULL;
    Py_ssize_t count = PyTuple_Size(rows);
    Device *device = calloc(1, sizeof(Device));
    if (device) device->rows = calloc((size_t)count + 1, sizeof(Row *));
    if (!device || !device->rows) {
        free(device);
        return PyErr_NoMemory();
    }
    device->type = type, device->id = id, device->last_row = -1;
    for (; device->num_rows < count; device->num_rows++) {
        device->rows[device->num_rows] = parse_row(self, PyTuple_GetItem(rows, device->num_rows));
        if (!device->rows[device->num_rows]) {
            free_device(device);
            return NULL;
        }
    }
    if (!index_rows(self, device)) {
        free_device(device);
        return PyErr_NoMemory();
    }
    int at = 0;
    while (at < self->num_devices && (self->devices[at]->type != type || self->devices[at]->id != id)) at++;
    if (at == kMaxDevices) {
        free_device(device);
        PyErr_SetString(PyExc_ValueError, "too many devices");
        return NULL;
    }
    Device *previous = at < self->num_devices ? self->devices[at] : NULL;
    self->devices[at] = device;
    if (!previous) self->num_devices++;
    free_device(previous);
    Py_RETURN_NONE;
}

static PyObject *Operation_clear_devices(PyObject *object, PyObject *unused) {
    (void)unused;
    Operation *self = (Operation *)object;
    Device *old[kMaxDevices];
    int count = self->num_devices;
    memcpy(old, self->devices, sizeof(Device *) * (size_t)count);
    self->num_devices = 0;
    for (int i = 0; i < count; i++) free_device(old[i]);
    Py_RETURN_NONE;
}

/* Strides and alignment of one tensor, as the kernels of the binding expect them. */
static bool layout_fits(const TensorSpec *spec, TensorView *view) {
    int last = view->ndim - 1;
    uintptr_t element = (uintptr_t)(view->dtype & 255) / 8;
    for (int d = 0; d <= last; d++)
        if (view->strides[d] < 0) return false;
    if (spec->layout == kLayoutAny) return ((uintptr_t)view->data & (element - 1)) == 0;
    if (spec->layout == kLayoutDense) {
        int64_t expected = 1;
        for (int d = last; d >= 0; d--) {
            if (view->shape[d] != 1 && view->strides[d] != expected) return false;
            expected *= view->shape[d];
        }
        return ((uintptr_t)view->data & (element - 1)) == 0;
    }
    if (view->strides[last] != 1 && view->shape[last] != 1) return false;
    for (int d = 0; d < last; d++) {
        if (view->shape[d] == 1) view->strides[d] = 0;
        if (view->strides[d] % 8 != 0) return false;
    }
    view->strides[last] = 1;
    return ((uintptr_t)view->data & 15) == 0;
}

/* Reads the tensors and binds every size; 0 when anything is not as the fast path has it. */
static int read_tensors(const Operation *op, PyObject *const *args, Call *call) {
    bool grad_enabled = false;
    if (g_grad_enabled) {
        PyObject *answer = PyObject_CallNoArgs(g_grad_enabled);
        if (!answer) return -1;
        grad_enabled = answer == Py_True;
        Py_DECREF(answer);
    }
    for (int i = 0; i < op->num_sizes; i++) call->sizes[i] = -1;
    call->device_type = call->dtype = -1;
    for (int i = 0; i < op->num_tensors; i++) {
        const TensorSpec *spec = &op->tensors[i];
        TensorView *view = &call->views[i];
        call->present[i] = args[i] != Py_None;
        if (!call->present[i]) {
            if (!spec->optional) return 0;
            continue;
        }
        int status = read_tensor(args[i], spec->writes != 0, grad_enabled, view);
        if (status != 1) return status;
        if (view->ndim != spec->ndim) return 0;
        if (spec->dtype >= 0) {
            if (view->dtype != spec->dtype) return 0;
        } else if (call->dtype < 0) {
            call->dtype = view->dtype;
        } else if (call->dtype != view->dtype) {
            return 0;
        }
        if (call->device_type < 0) {
            call->device_type = view->device_type, call->device_id = view->device_id;
        } else if (call->device_type != view->device_type || call->device_id != view->device_id) {
            return 0;
        }
        for (int d = 0; d < view->ndim; d++) {
            int64_t *size = &call->sizes[spec->dims[d]];
            if (view->shape[d] < 1) return 0;
            if (*size < 0) *size = view->shape[d];
            if (*size != view->shape[d]) return 0;
        }
        if (!view->data) return 0; /* a symbolic zero, or a storage that was freed */
        if (!layout_fits(spec, view)) return 0;
    }
    for (int i = 0; i < op->num_sizes; i++)
        if (call->sizes[i] < 0) call->sizes[i] = op->size_defaults[i] < 0 ? 0 : call->sizes[op->size_defaults[i]];
    for (int i = 0; i < op->num_divides; i++)
        if (call->sizes[op->divides[i][1]] % call->sizes[op->divides[i][0]]) return 0;
    return 1;
}

static int read_scalars(const Operation *op, PyObject *const *args, Call *call) {
    for (int i = 0; i < op->num_scalars; i++) {
        const ScalarSpec *spec = &op->scalars[i];
        if (args[i] == Py_None) {
            double size = spec->size < 0 ? 0 : (double)call->sizes[spec->size];
            call->scalars[i] = spec->size < 0 ? spec->fallback : spec->power == 1 ? size : pow(size, spec->power);
        } else if (spec->is_whole ? PyLong_CheckExact(args[i]) : PyFloat_CheckExact(args[i])) {
            call->scalars[i] = PyFloat_AsDouble(args[i]);
            if (call->scalars[i] == -1 && PyErr_Occurred()) return -1;
        } else {
            return 0;
        }
        if (spec->is_whole) { /* pack_parameters looks at its range; beyond this one a double holds no whole number */
            if (fabs(call->scalars[i]) > 9007199254740992.0) return 0;
            continue;
        }
        float number = (float)call->scalars[i];
        if (!isfinite(number) || (number == 0 && call->scalars[i] != 0)) return 0;
    }
    return 1;
}

/* Whether what is written shares no byte with anything else; hulls only, so false may be a false alarm. Elements of what is
 * added to may be one in memory. */
static bool writes_are_apart(const Operation *op, const Call *call) {
    for (int i = 0; i < op->num_tensors; i++) {
        if (!op->tensors[i].writes || !call->present[i]) continue;
        if (op->tensors[i].writes == 1 && !elements_disjoint(&call->views[i])) return false;
        const char *begin = call->views[i].data, *end = begin + hull_bytes(&call->views[i]);
        for (int j = 0; j < op->num_tensors; j++) {
            if (j == i || !call->present[j]) continue;
            const char *other = call->views[j].data;
            if (begin < other + hull_bytes(&call->views[j]) && other < end) return false;
        }
    }
    return true;
}

/* The first row of a group whose bounds a call keeps, or -1. */
static int first_fitting(const Operation *op, const Device *device, const Group *group, const Call *call) {
    for (int g = 0; g < group->num_rows; g++) {
        const int64_t *bound = device->rows[group->rows[g]]->bounds + op->num_fixed;
        bool fits = true;
        for (int i = 0; i < op->num_sizes && fits; i++, bound += 2)
            fits = call->sizes[i] >= bound[0] && call->sizes[i] <= bound[1];
        if (fits) return group->rows[g];
    }
    return -1;
}

/* The same by the group's index: the first row that every column takes. */
static int first_indexed(const Group *group, const Call *call) {
    const uint64_t *bits[kMaxSizes];
    for (int c = 0; c < group->num_columns; c++) {
        const Column *column = &group->columns[c];
        int low = 0, high = column->num_starts; /* starts[low] <= size < starts[high] */
        while (high - low > 1) {
            int middle = (low + high) / 2;
            if (column->starts[middle] <= call->sizes[column->size]) low = middle;
            else high = middle;
        }
        bits[c] = column->bits + (size_t)low * (size_t)group->num_words;
    }
    if (!group->num_columns) return group->rows[0];
    for (int w = 0; w < group->num_words; w++) {
        uint64_t rows = bits[0][w];
        for (int c = 1; c < group->num_columns; c++) rows &= bits[c][w];
        if (rows) return group->rows[64 * w + __builtin_ctzll(rows)];
    }
    return -1;
}

static Kernel *find_kernel(const Operation *op, const Call *call) {
    Device *device = NULL;
    for (int i = 0; i < op->num_devices && !device; i++)
        if (op->devices[i]->type == call->device_type && op->devices[i]->id == call->device_id) device = op->devices[i];
    if (!device) return NULL;
    size_t bytes = sizeof(int64_t) * (size_t)op->num_sizes;
    if (device->last_row >= 0 && device->last_dtype == call->dtype && device->last_flags == call->flags &&
        memcmp(device->last_sizes, call->sizes, bytes) == 0)
        return device->rows[device->last_row]->kernel;
    const Group *group = find_group(device, op->num_fixed, call->dtype, call->flags, call->sizes, op->fixed, NULL);
    int r = !group ? -1 : group->linear ? first_fitting(op, device, group, call) : first_indexed(group, call);
    if (r < 0) return NULL;
    device->last_dtype = call->dtype, device->last_flags = call->flags, device->last_row = r;
    memcpy(device->last_sizes, call->sizes, bytes);
    return device->rows[r]->kernel;
}

static int64_t floor_div(int64_t a, int64_t b) { return b == 0 ? 0 : a / b - (a % b != 0 && (a < 0) != (b < 0)); }

/* Sets *over when the value does not fit 64 bits, and then returns anything. */
static int64_t term_value(const Operation *op, const Term *term, const Call *call, const Kernel *kernel, bool *over) {
    int64_t stack[kMaxCode];
    int top = -1;
    for (int i = 0; i < term->count; i++) {
        const Instruction *one = &term->code[i];
        int64_t operand = one->operand, b = 0;
        if (one->op > kOpName && one->op < kOpChoose) b = stack[top--];
        int64_t *a = &stack[top < 0 ? 0 : top];
        switch (one->op) {
            case kOpPush: stack[++top] = operand; break;
            case kOpName:
                stack[++top] = operand < 0                ? kernel->constants[-1 - operand]
                               : operand < op->num_sizes ? call->sizes[operand]
                                                         : (int64_t)call->scalars[operand - op->num_sizes];
                break;
            case kOpAdd: *over |= __builtin_add_overflow(*a, b, a); break;
            case kOpSub: *over |= __builtin_sub_overflow(*a, b, a); break;
            case kOpMul: *over |= __builtin_mul_overflow(*a, b, a); break;
            case kOpFloorDiv: *a = floor_div(*a, b); break;
            case kOpCeilDiv: *a = -floor_div(-*a, b); break;
            case kOpMin: *a = *a < b ? *a : b; break;
            case kOpMax: *a = *a > b ? *a : b; break;
            default: /* choose */
                top -= 2;
                if (stack[top] != 0) stack[top] = stack[top + 1];
                else stack[top] = stack[top + 2];
        }
    }
    return stack[0];
}

static int pack_parameters(const Operation *op, const Call *call, const Kernel *kernel, char *block) {
    memset(block, 0, (size_t)op->parameter_bytes);
    for (int i = 0; i < op->num_fields; i++) {
        const Field *field = &op->fields[i];
        int64_t value = 0;
        if (field->source == kFromScalar) {
            if (field->type == kF32) {
                float number = (float)call->scalars[field->a];
                memcpy(block + field->offset, &number, sizeof number);
                continue;
            }
            value = (int64_t)call->scalars[field->a];
        } else if (field->source == kFromTerm) {
            bool over = false;
            value = term_value(op, &field->term, call, kernel, &over);
            if (over) value = INT64_MAX;
        } else if (call->present[field->a]) {
            const TensorView *view = &call->views[field->a];
            value = field->source == kFromPointer ? (int64_t)(uintptr_t)view->data : view->strides[field->b];
        }
        if (field->type == kI32) {
            int32_t narrow = (int32_t)value;
            if (narrow != value) {
                PyErr_Format(kernel->driver->launch_error,
                             "%s: %lld does not fit a 32-bit parameter; sizes go up to 2147483647. Split the call.",
                             kernel->name, (long long)value);
                return -1;
            }
            memcpy(block + field->offset, &narrow, sizeof narrow);
        } else {
            memcpy(block + field->offset, &value, sizeof value);
        }
    }
    return 0;
}

static int grid_size(const Operation *op, const Call *call, const Kernel *kernel, int64_t grid[3]) {
    static const char *const axes[3] = {"x", "y", "z"};
    for (int axis = 0; axis < 3; axis++) {
        int64_t limit = axis == 0 ? INT32_MAX : 65535;
        bool over = false;
        int64_t product = term_value(op, &op->grid[axis], call, kernel, &over);
        if (over || product < 1 || product > limit) {
            PyErr_Format(kernel->driver->launch_error,
                         "%s: the grid's %s dimension would be %s%lld thread blocks, CUDA allows 1 to %lld. "
                         "Split the call along batch or heads.",
                         kernel->name, axes[axis], over ? "more than " : "", over ? (long long)INT64_MAX : (long long)product,
                         (long long)limit);
            return -1;
        }
        grid[axis] = product;
    }
    return 0;
}

static int current_stream(const Call *call, PyObject *given, CUstream *stream) {
    *stream = NULL;
    if (given != Py_None) {
        unsigned long long handle = PyLong_AsUnsignedLongLong(given);
        if (PyErr_Occurred()) return -1;
        *stream = (CUstream)(uintptr_t)handle;
        return 0;
    }
    if (call->device_type == kDeviceCpu || !g_exchange) return 0;
    void *current = NULL;
    if (g_exchange->current_work_stream(call->device_type, call->device_id, &current) != 0) return -1;
    *stream = (CUstream)current;
    return 0;
}

static PyObject *launch_kernel(const Operation *op, const Call *call, Kernel *kernel, PyObject *given_stream) {
    Driver *driver = kernel->driver;
    if (!driver->initialised || driver->forks != g_forks)
        if (driver_init(driver) < 0) return NULL;
    if (!kernel->kernel) Py_RETURN_FALSE; /* Python loads it, and calls again */
    if (driver_context(driver, kernel->ordinal) < 0) return NULL;
    int64_t grid[3];
    char block[kMaxParameterBytes] __attribute__((aligned(16)));
    CUlaunchConfig config;
    memset(&config, 0, sizeof config);
    if (grid_size(op, call, kernel, grid) < 0 || pack_parameters(op, call, kernel, block) < 0 ||
        current_stream(call, given_stream, &config.stream) < 0)
        return NULL;
    config.grid_x = (unsigned)grid[0], config.grid_y = (unsigned)grid[1], config.grid_z = (unsigned)grid[2];
    config.block_x = kernel->threads, config.block_y = config.block_z = 1;
    config.shared_bytes = kernel->shared_bytes;
    void *parameters[1] = {block};
    const DriverApi *api = &driver->api;
    CUcontext context = driver->contexts[kernel->ordinal], popped = NULL;
    const char *step = "cuCtxPushCurrent";
    int num_tensors = op->num_tensors;
    Py_INCREF((PyObject *)kernel); /* another thread may replace the routing table while the GIL is free */
    Py_INCREF((PyObject *)op);
    CUresult code;
    Py_BEGIN_ALLOW_THREADS
    code = api->cuCtxPushCurrent_v2(context);
    if (code == 0) {
        if (api->kw_declare) {
            step = "kw_declare";
            for (int i = 0; i < num_tensors && code == 0; i++)
                if (call->present[i])
                    code = api->kw_declare(call->views[i].data, hull_bytes(&call->views[i]),
                                           op->tensors[i].writes + 1, op->tensors[i].writes != 1);
        }
        if (code == 0) {
            step = "cuLaunchKernelEx";
            code = api->cuLaunchKernelEx(&config, (CUfunction)kernel->kernel, parameters, NULL);
        }
        CUresult pop = api->cuCtxPopCurrent_v2(&popped);
        if (code == 0 && pop != 0) step = "cuCtxPopCurrent", code = pop;
    }
    Py_END_ALLOW_THREADS
    /* poll_signals leaves an exception, KeyboardInterrupt mostly, in this thread. */
    if (code != 0 && !PyErr_Occurred()) raise_result(driver, driver->launch_error, code, kernel->name, step);
    Py_DECREF((PyObject *)op);
    Py_DECREF((PyObject *)kernel);
    if (PyErr_Occurred()) return NULL;
    Py_RETURN_TRUE;
}

/* args: tensors, scalars, flags, stream. Returns whether the call is usual, and fills `call` if so. */
static int read_call(const Operation *op, PyObject *const *args, Py_ssize_t num_args, Call *call) {
    if (num_args != op->num_tensors + op->num_scalars + 2) {
        PyErr_Format(PyExc_TypeError, "expected %d tensors, %d scalars, flags and a stream, got %zd arguments",
                     op->num_tensors, op->num_scalars, num_args);
        return -1;
    }
    int status = read_tensors(op, args, call);
    if (status != 1) return status;
    args += op->num_tensors;
    status = read_scalars(op, args, call);
    if (status != 1) return status;
    long flags = PyLong_AsLong(args[op->num_scalars]);
    if (flags == -1 && PyErr_Occurred()) return -1;
    call->flags = (int)flags;
    return 1;
}

/* Whether someone watches who would not see a launch: a tracer, a dispatch mode. */
static int guarded(void) {
    Py_ssize_t count = g_guards ? PyTuple_Size(g_guards) : 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *answer = PyObject_CallNoArgs(PyTuple_GetItem(g_guards, i));
        if (!answer) return -1;
        int truth = answer == Py_None ? 0 : PyObject_IsTrue(answer);
        Py_DECREF(answer);
        if (truth) return truth;
    }
    return 0;
}

static PyObject *Operation_launch(PyObject *object, PyObject *const *args, Py_ssize_t num_args) {
    const Operation *self = (const Operation *)object;
    Call call;
    int watched = guarded();
    int status = watched ? (watched < 0 ? -1 : 0) : read_call(self, args, num_args, &call);
    if (status < 0) return NULL;
    if (status == 0 || !writes_are_apart(self, &call)) Py_RETURN_FALSE;
    Kernel *kernel = find_kernel(self, &call);
    if (!kernel) Py_RETURN_FALSE;
    return launch_kernel(self, &call, kernel, args[num_args - 1]);
}

/* launch_kernel(kernel, ...): the caller has chosen, and vouches that nothing overlaps. */
static PyObject *Operation_launch_kernel(PyObject *object, PyObject *const *args, Py_ssize_t num_args) {
    const Operation *self = (const Operation *)object;
    if (num_args < 1 || Py_TYPE(args[0]) != g_kernel_class) {
        PyErr_SetString(PyExc_TypeError, "the first argument must be a Kernel");
        return NULL;
    }
    Kernel *kernel = (Kernel *)args[0];
    if (kernel->num_constants != self->num_constants) {
        PyErr_Format(PyExc_ValueError, "%s does not fit the binding", kernel->name);
        return NULL;
    }
    Call call;
    int status = read_call(self, args + 1, num_args - 1, &call);
    if (status < 0) return NULL;
    if (status == 0) Py_RETURN_FALSE;
    return launch_kernel(self, &call, kernel, args[num_args - 1]);
}

/* match(...): the name of the kernel that launch would run, or None. */
static PyObject *Operation_match(PyObject *object, PyObject *const *args, Py_ssize_t num_args) {
    const Operation *self = (const Operation *)object;
    Call call;
    int status = read_call(self, args, num_args, &call);
    if (status < 0) return NULL;
    Kernel *kernel = status == 1 && writes_are_apart(self, &call) ? find_kernel(self, &call) : NULL;
    if (!kernel) Py_RETURN_NONE;
    return PyUnicode_FromString(kernel->name);
}

static PyObject *Operation_get_parameter_bytes(PyObject *self, void *unused) {
    (void)unused;
    return PyLong_FromLong(((Operation *)self)->parameter_bytes);
}

static PyMethodDef kOperationMethods[] = {
    {"add_device", Operation_add_device, METH_VARARGS,
     "add_device(device_type, device_id, rows): set the rows tried for a device, in order.\n\n"
     "A row is (dtype, flags, fixed sizes, lowest sizes, highest sizes, Kernel)."},
    {"clear_devices", Operation_clear_devices, METH_NOARGS, "Forget every device's rows; kernels stay loaded."},
    {"launch", (PyCFunction)(void (*)(void))Operation_launch, METH_FASTCALL,
     "launch(*tensors, *scalars, flags, stream): True if launched, False if Python must decide."},
    {"launch_kernel", (PyCFunction)(void (*)(void))Operation_launch_kernel, METH_FASTCALL,
     "launch_kernel(kernel, *tensors, *scalars, flags, stream): the same with this very kernel."},
    {"match", (PyCFunction)(void (*)(void))Operation_match, METH_FASTCALL,
     "match(*tensors, *scalars, flags, stream): the kernel that launch would run, or None."},
    {NULL, NULL, 0, NULL},
};
static PyGetSetDef kOperationGetSet[] = {
    {"parameter_bytes", Operation_get_parameter_bytes, NULL, "Size of the kernel's parameter struct.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
static PyType_Slot kOperationSlots[] = {
    {Py_tp_doc, "Operation(...): a lowered binding and, per device, the rows to choose from."},
    {Py_tp_new, Operation_new},
    {Py_tp_dealloc, Operation_dealloc},
    {Py_tp_methods, kOperationMethods},
    {Py_tp_getset, kOperationGetSet},
    {0, NULL},
};
static PyType_Spec kOperationSpec = {"_launcher.Operation", sizeof(Operation), 0, Py_TPFLAGS_DEFAULT, kOperationSlots};

/* ------------------------------------------------------------------ 6. the module */

static void keep(PyObject **slot, PyObject *object) {
    PyObject *old = *slot;
    Py_INCREF(object);
    *slot = object;
    Py_XDECREF(old);
}

/* The exchange interface of a tensor class: 0 found or absent, -1 an exception is set. */
static int find_exchange(PyObject *tensor_type) {
    g_exchange = NULL;
    PyObject *capsule = PyObject_GetAttrString(tensor_type, "__dlpack_c_exchange_api__");
    if (!capsule) {
        if (!PyErr_ExceptionMatches(PyExc_AttributeError)) return -1;
        PyErr_Clear();
        return 0;
    }
    const ExchangeHeader *header = PyCapsule_GetPointer(capsule, "dlpack_exchange_api");
    Py_DECREF(capsule); /* its table lives as long as the process */
    if (!header) return -1;
    while (header && header->version.major > kDLPackMajor) header = header->previous;
    if (!header || header->version.major != kDLPackMajor) return 0;
    const ExchangeApi *api = (const ExchangeApi *)header;
    if (api->dltensor_from_py_object_no_sync && api->current_work_stream) g_exchange = api;
    return 0;
}

static PyObject *setup(PyObject *module, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"tensor_type",  "parameter_type", "is_grad_enabled", "is_neg", "guards",
                            "driver_error", "launch_error",   "use_exchange",    NULL};
    PyObject *tensor_type, *parameter_type, *grad_enabled, *is_neg, *guards, *driver, *launch;
    int use_exchange = 1;
    (void)module;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOOOO!OO|p:setup", names, &tensor_type, &parameter_type,
                                     &grad_enabled, &is_neg, &PyTuple_Type, &guards, &driver, &launch, &use_exchange))
        return NULL;
    if (find_exchange(tensor_type) < 0) return NULL;
    if (!use_exchange) g_exchange = NULL;
    keep(&g_tensor_type, tensor_type);
    keep(&g_parameter_type, parameter_type);
    keep(&g_grad_enabled, grad_enabled);
    keep(&g_is_neg, is_neg);
    keep(&g_guards, guards);
    keep(&g_driver_error, driver);
    keep(&g_launch_error, launch);
    return PyBool_FromLong(g_exchange != NULL);
}

static PyMethodDef kModuleMethods[] = {
    {"setup", (PyCFunction)(void (*)(void))setup, METH_VARARGS | METH_KEYWORDS,
     "setup(tensor_type, parameter_type, is_grad_enabled, is_neg, guards, driver_error, launch_error, use_exchange=True)\n\n"
     "Name torch's classes and the errors to raise; True when tensors can be passed as they are."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef kModule = {
    PyModuleDef_HEAD_INIT, "_launcher", "Launches kernels through the CUDA driver's interface.", -1, kModuleMethods,
    NULL, NULL, NULL, NULL,
};

/* Imported under a second name the extension is the same, and so are its classes. */
static int add_class(PyObject *module, PyType_Spec *spec, const char *name, PyTypeObject **slot) {
    if (!*slot) *slot = (PyTypeObject *)PyType_FromSpec(spec);
    return *slot ? PyModule_AddObjectRef(module, name, (PyObject *)*slot) : -1;
}

__attribute__((visibility("default"))) PyMODINIT_FUNC PyInit__launcher(void);

PyMODINIT_FUNC PyInit__launcher(void) {
    PyObject *module = PyModule_Create(&kModule);
    if (!module) return NULL;
    g_requires_grad = PyUnicode_InternFromString("requires_grad");
    if (!g_requires_grad || add_class(module, &kDriverSpec, "Driver", &g_driver_class) < 0 ||
        add_class(module, &kKernelSpec, "Kernel", &g_kernel_class) < 0 ||
        add_class(module, &kOperationSpec, "Operation", &g_operation_class) < 0 ||
        pthread_atfork(NULL, NULL, count_fork) != 0) {
        Py_DECREF(module);
        return NULL;
    }
    return module;
}
