/* How an optimizer looks at many tensors between two steps, without a Python object for each of them.
 *
 * Compiled by kernels/optim/native.py, which says what the functions of torch are and where a tensor object and its
 * implementation have what is read from them; the same answers in Python are in kernels/optim/looks.py and known.py.
 * The caller holds the interpreter's lock throughout, and no Python code can run while a list or a dict is walked.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

/* torch's stable C functions: a handle points to a pointer to the tensor's implementation; 0 is success. */
typedef int32_t (*address_of)(void *handle, void **address);
typedef int32_t (*number_of)(void *handle, int64_t *number);
typedef int32_t (*numbers_of)(void *handle, int64_t **numbers);
typedef int32_t (*code_of)(void *handle, int32_t *code);

static struct {
    PyTypeObject *tensor;
    Py_ssize_t handle;  /* Bytes from a tensor object to its handle. */
    Py_ssize_t keys;    /* Bytes from an implementation to its dispatch keys. */
    Py_ssize_t storage; /* Bytes from an implementation to its pointer to its storage. */
    address_of data_ptr;
    number_of storage_size, storage_offset, dimensions;
    numbers_of sizes, strides;
    code_of dtype, device_type, device_index;
} torch;

enum { OTHER_LAYOUT = -1, NO_MEMORY = -2 };

/* A row of the table that a tensor is compared with; as int64 columns in Python. */
typedef struct {
    int64_t address;
    int64_t itemsize; /* Bytes; 0 for a tensor without elements, which needs no memory. */
    int64_t span;     /* Bytes from the first element to the end of the last. */
    int64_t layout;   /* Where its layout begins among the layouts. */
} row;

/* What tensors share that are laid out alike; sizes and strides follow. Dispatch keys say what else is to be known of a
   tensor: sparse, negated, functional, made in inference mode, of a class that has operators of its own. */
typedef struct {
    int64_t type; /* Address of its class. */
    int64_t keys;
    int32_t dtype, device_type, device_index, dimensions;
} layout;

static int is_bound(void) {
    if (!torch.tensor) PyErr_SetString(PyExc_RuntimeError, "looks: bind() first");
    return torch.tensor != NULL;
}

static PyObject *bind(PyObject *module, PyObject *args) {
    PyObject *type;
    unsigned long long at[9];
    Py_ssize_t handle, keys, storage;
    if (!PyArg_ParseTuple(args, "O!nnnKKKKKKKKK", &PyType_Type, &type, &handle, &keys, &storage, at, at + 1, at + 2,
                          at + 3, at + 4, at + 5, at + 6, at + 7, at + 8))
        return NULL;
    Py_INCREF(type);
    Py_XDECREF((PyObject *)torch.tensor);
    torch.tensor = (PyTypeObject *)type;
    torch.handle = handle;
    torch.keys = keys;
    torch.storage = storage;
    torch.data_ptr = (address_of)(uintptr_t)at[0];
    torch.storage_size = (number_of)(uintptr_t)at[1];
    torch.storage_offset = (number_of)(uintptr_t)at[2];
    torch.dimensions = (number_of)(uintptr_t)at[3];
    torch.sizes = (numbers_of)(uintptr_t)at[4];
    torch.strides = (numbers_of)(uintptr_t)at[5];
    torch.dtype = (code_of)(uintptr_t)at[6];
    torch.device_type = (code_of)(uintptr_t)at[7];
    torch.device_index = (code_of)(uintptr_t)at[8];
    Py_RETURN_NONE;
}

/* Whether an object is a tensor; a class that was one is not asked again. */
static int has_handle(PyObject *object, PyTypeObject **known) {
    if (Py_TYPE(object) == *known) return 1;
    if (!PyObject_TypeCheck(object, torch.tensor)) return 0;
    *known = Py_TYPE(object);
    return 1;
}

static int is_tensor(PyObject *object) {
    PyTypeObject *unknown = NULL;
    if (has_handle(object, &unknown)) return 1;
    PyErr_Format(PyExc_TypeError, "looks: a %s among the tensors", Py_TYPE(object)->tp_name);
    return 0;
}

static void *handle_of(PyObject *tensor) { return (char *)tensor + torch.handle; }

static char *implementation_of(PyObject *tensor) { return *(char **)handle_of(tensor); }

static int64_t keys_of(PyObject *tensor) { return *(int64_t *)(implementation_of(tensor) + torch.keys); }

/* Read a tensor's layout; sizes and strides stay where they are. */
static int read_layout(PyObject *tensor, layout *is, int64_t **sizes, int64_t **strides) {
    void *handle = handle_of(tensor);
    int64_t dimensions;
    if (torch.dimensions(handle, &dimensions) || torch.sizes(handle, sizes) || torch.strides(handle, strides) ||
        torch.dtype(handle, &is->dtype) || torch.device_type(handle, &is->device_type) ||
        torch.device_index(handle, &is->device_index))
        return -1;
    is->type = (int64_t)(intptr_t)Py_TYPE(tensor);
    is->keys = keys_of(tensor);
    is->dimensions = (int32_t)dimensions;
    return 0;
}

/* describe(tensor): its layout as bytes; equal layouts have equal bytes. */
static PyObject *describe(PyObject *module, PyObject *tensor) {
    layout is;
    int64_t *sizes, *strides;
    if (!is_bound() || !is_tensor(tensor)) return NULL;
    if (read_layout(tensor, &is, &sizes, &strides)) {
        PyErr_SetString(PyExc_ValueError, "looks: a tensor without strides");
        return NULL;
    }
    Py_ssize_t half = is.dimensions * (Py_ssize_t)sizeof(int64_t);
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)sizeof(layout) + 2 * half);
    if (!bytes) return NULL;
    char *at = PyBytes_AS_STRING(bytes);
    memcpy(at, &is, sizeof(layout));
    memcpy(at + sizeof(layout), sizes, half);
    memcpy(at + sizeof(layout) + half, strides, half);
    return bytes;
}

/* Whether a tensor is laid out so. Class and keys come first: others may be asked for nothing else. */
static int is_laid_out(PyObject *tensor, const layout *was) {
    layout is;
    int64_t *sizes, *strides;
    if ((int64_t)(intptr_t)Py_TYPE(tensor) != was->type || keys_of(tensor) != was->keys) return 0;
    if (read_layout(tensor, &is, &sizes, &strides) || memcmp(&is, was, sizeof(layout))) return 0;
    const int64_t *numbers = (const int64_t *)(was + 1);
    for (int32_t d = 0; d < is.dimensions; d++)
        if (sizes[d] != numbers[d] || strides[d] != numbers[is.dimensions + d]) return 0;
    return 1;
}

/* 1 if a tensor has moved, whose address is taken over, 0 if not, or NO_MEMORY. */
static int has_moved(PyObject *tensor, row *known) {
    void *handle = handle_of(tensor), *address;
    int64_t size, offset;
    /* Torch refuses the address of memory that was taken away; Python asks again, and raises its error. */
    if (torch.data_ptr(handle, &address) || torch.storage_size(handle, &size) || torch.storage_offset(handle, &offset))
        return NO_MEMORY;
    if (known->span && (!address || size < offset * known->itemsize + known->span)) return NO_MEMORY;
    if (known->address == (int64_t)(intptr_t)address) return 0;
    known->address = (int64_t)(intptr_t)address;
    return 1;
}

/* Ask for the memory of tensors to come: object, implementation, storage, each found through the one before. */
enum { OBJECT = 24, IMPLEMENTATION = 16, STORAGE = 8 };

static void fetch(PyObject **tensors, Py_ssize_t count, Py_ssize_t at, PyTypeObject **known) {
    if (at + OBJECT < count) __builtin_prefetch(tensors[at + OBJECT]);
    if (at + IMPLEMENTATION < count && has_handle(tensors[at + IMPLEMENTATION], known)) {
        char *implementation = implementation_of(tensors[at + IMPLEMENTATION]);
        for (int line = 0; line < 4; line++) __builtin_prefetch(implementation + 64 * line);
    }
    if (at + STORAGE < count && has_handle(tensors[at + STORAGE], known))
        __builtin_prefetch(*(char **)(implementation_of(tensors[at + STORAGE]) + torch.storage));
}

/* look(tensors, known, layouts): how many have moved, or what is other of the first that is. */
static PyObject *look(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    if (!is_bound()) return NULL;
    if (count != 3 || !(PyTuple_Check(args[0]) || PyList_Check(args[0])) || !PyBytes_Check(args[2])) {
        PyErr_SetString(PyExc_TypeError, "look(tensors: list | tuple, known: int64 [tensors, 4], layouts: bytes)");
        return NULL;
    }
    Py_ssize_t many = PySequence_Fast_GET_SIZE(args[0]);
    PyObject **tensors = PySequence_Fast_ITEMS(args[0]);
    const char *were = PyBytes_AS_STRING(args[2]);
    int64_t last = PyBytes_GET_SIZE(args[2]) - (int64_t)sizeof(layout);
    Py_buffer known;
    if (PyObject_GetBuffer(args[1], &known, PyBUF_WRITABLE | PyBUF_C_CONTIGUOUS)) return NULL;
    row *rows = known.buf;
    PyTypeObject *class = NULL;
    long found = 0;
    if (known.len != many * (Py_ssize_t)sizeof(row)) {
        PyErr_SetString(PyExc_ValueError, "look: known has not a row for each tensor");
        found = OTHER_LAYOUT;
    }
    for (Py_ssize_t i = 0; i < many && found >= 0; i++) {
        fetch(tensors, many, i, &class);
        if (rows[i].layout < 0 || rows[i].layout > last) {
            PyErr_SetString(PyExc_ValueError, "look: a row of known has its layout not among the layouts");
            break;
        }
        int moved = OTHER_LAYOUT;
        if (is_laid_out(tensors[i], (const layout *)(were + rows[i].layout))) moved = has_moved(tensors[i], rows + i);
        found = moved < 0 ? moved : found + moved;
    }
    PyBuffer_Release(&known);
    return PyErr_Occurred() ? NULL : PyLong_FromLong(found);
}

/* Ask for dicts to come, and for their keys and values. */
static void fetch_dicts(PyObject *dicts, Py_ssize_t at) {
    Py_ssize_t count = PyTuple_GET_SIZE(dicts);
    if (at + OBJECT < count) __builtin_prefetch(PyTuple_GET_ITEM(dicts, at + OBJECT));
    if (at + STORAGE < count && PyDict_Check(PyTuple_GET_ITEM(dicts, at + STORAGE))) {
        char *keys = (char *)((PyDictObject *)PyTuple_GET_ITEM(dicts, at + STORAGE))->ma_keys;
        for (int line = 0; line < 3; line++) __builtin_prefetch(keys + 64 * line);
    }
}

/* same_entries(state, keys, entries, names, values): whether a dict holds these dicts under these keys, in order, and
   they hold these values under these names. An order alone does not say whose a state is. */
static PyObject *same_entries(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    int fit = count == 5 && PyDict_Check(args[0]);
    for (Py_ssize_t i = 1; fit && i < 5; i++) fit = PyTuple_Check(args[i]);
    if (!fit || PyTuple_GET_SIZE(args[1]) != PyTuple_GET_SIZE(args[2]) ||
        PyTuple_GET_SIZE(args[3]) != PyTuple_GET_SIZE(args[4])) {
        PyErr_SetString(PyExc_TypeError, "same_entries(state: dict, keys, entries, names, values: tuples, two and two alike)");
        return NULL;
    }
    PyObject *state = args[0], *keys = args[1], *entries = args[2], *names = args[3], *values = args[4];
    PyObject *key, *entry, *name, *value;
    Py_ssize_t at = 0, entry_count = PyTuple_GET_SIZE(entries), value_count = PyTuple_GET_SIZE(values), e = 0, v = 0;
    if (PyDict_GET_SIZE(state) != entry_count) Py_RETURN_FALSE;
    while (PyDict_Next(state, &at, &key, &entry)) {
        if (e == entry_count || key != PyTuple_GET_ITEM(keys, e) || entry != PyTuple_GET_ITEM(entries, e) ||
            !PyDict_Check(entry))
            Py_RETURN_FALSE;
        fetch_dicts(entries, e++);
        Py_ssize_t within = 0;
        while (PyDict_Next(entry, &within, &name, &value)) {
            if (v == value_count || name != PyTuple_GET_ITEM(names, v) || value != PyTuple_GET_ITEM(values, v))
                Py_RETURN_FALSE;
            v++;
        }
    }
    return PyBool_FromLong(e == entry_count && v == value_count);
}

/* same_objects(objects, known): whether a list holds the objects of a tuple in their order. */
static PyObject *same_objects(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    if (count != 2 || !PyList_Check(args[0]) || !PyTuple_Check(args[1])) {
        PyErr_SetString(PyExc_TypeError, "same_objects(objects: list, known: tuple)");
        return NULL;
    }
    Py_ssize_t size = PyList_GET_SIZE(args[0]);
    int same = size == PyTuple_GET_SIZE(args[1]) &&
               !memcmp(PySequence_Fast_ITEMS(args[0]), PySequence_Fast_ITEMS(args[1]), size * sizeof(PyObject *));
    return PyBool_FromLong(same);
}

/* gradients(params, absent): their .grad, or None where others are None than those of which `absent` has a 1. */
static PyObject *gradients(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    if (!is_bound()) return NULL;
    if (count != 2 || !PyTuple_Check(args[0]) || !PyBytes_Check(args[1]) ||
        PyTuple_GET_SIZE(args[0]) != PyBytes_GET_SIZE(args[1])) {
        PyErr_SetString(PyExc_TypeError, "gradients(params: tuple, absent: bytes), equally many");
        return NULL;
    }
    Py_ssize_t many = PyTuple_GET_SIZE(args[0]);
    const char *absent = PyBytes_AS_STRING(args[1]);
    PyTypeObject *class = NULL;
    PyObject *found = PyList_New(many), *name = PyUnicode_InternFromString("grad");
    for (Py_ssize_t i = 0; found && name && i < many; i++) {
        fetch(&PyTuple_GET_ITEM(args[0], 0), many, i, &class);
        PyObject *grad = PyObject_GetAttr(PyTuple_GET_ITEM(args[0], i), name);
        if (grad) PyList_SET_ITEM(found, i, grad);
        if (!grad || (grad == Py_None) != absent[i]) Py_CLEAR(found);
    }
    Py_XDECREF(name);
    if (!found && !PyErr_Occurred()) Py_RETURN_NONE;
    return found;
}

static PyMethodDef methods[] = {
    {"bind", bind, METH_VARARGS, "bind(tensor_type, *offsets, *functions), in the order of `native`."},
    {"describe", describe, METH_O, "The layout of a strided tensor, as bytes."},
    {"look", (PyCFunction)(void (*)(void))look, METH_FASTCALL, "Tensors that moved, or -1: another layout, -2: no memory."},
    {"same_entries", (PyCFunction)(void (*)(void))same_entries, METH_FASTCALL, "Whether a state is the same objects."},
    {"same_objects", (PyCFunction)(void (*)(void))same_objects, METH_FASTCALL, "Whether a list holds these objects."},
    {"gradients", (PyCFunction)(void (*)(void))gradients, METH_FASTCALL, "Gradients, if the same are absent as were."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "kernels_looks", "See kernels/optim/looks.c.", -1, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit_kernels_looks(void) { return PyModule_Create(&definition); }
