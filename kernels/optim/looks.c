/* How an optimizer looks at many tensors between two steps, without a Python object for each of them.
 *
 * Compiled by kernels/optim/native.py, which says what the functions of torch are and where a tensor's handle is; the
 * same answers in Python are in kernels/optim/looks.py and known.py. The caller holds the interpreter's lock
 * throughout, and no Python code can run while a dict is walked.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>

/* torch's stable C functions: a handle points to a pointer to the tensor's implementation; 0 is success. */
typedef int32_t (*address_of)(void *handle, void **address);
typedef int32_t (*number_of)(void *handle, int64_t *number);

static struct {
    PyTypeObject *tensor;
    Py_ssize_t handle; /* Bytes from a tensor object to its handle. */
    address_of data_ptr;
    number_of storage_size, storage_offset;
} torch;

enum { OTHER_LAYOUT = -1, NO_MEMORY = -2 };

/* A row of the table that a tensor is compared with; as int64 columns in Python. */
typedef struct {
    int64_t address;
    int64_t itemsize; /* Bytes; 0 for a tensor without elements, which needs no memory. */
    int64_t span;     /* Bytes from the first element to the end of the last. */
} row;

static int is_bound(void) {
    if (!torch.tensor) PyErr_SetString(PyExc_RuntimeError, "looks: bind() first");
    return torch.tensor != NULL;
}

static PyObject *bind(PyObject *module, PyObject *args) {
    PyObject *type;
    unsigned long long data_ptr, storage_size, storage_offset;
    Py_ssize_t handle;
    if (!PyArg_ParseTuple(args, "O!nKKK", &PyType_Type, &type, &handle, &data_ptr, &storage_size, &storage_offset))
        return NULL;
    Py_INCREF(type);
    Py_XDECREF((PyObject *)torch.tensor);
    torch.tensor = (PyTypeObject *)type;
    torch.handle = handle;
    torch.data_ptr = (address_of)(uintptr_t)data_ptr;
    torch.storage_size = (number_of)(uintptr_t)storage_size;
    torch.storage_offset = (number_of)(uintptr_t)storage_offset;
    Py_RETURN_NONE;
}

static int all_tensors(PyObject *tensors) {
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(tensors); i++)
        if (!PyObject_TypeCheck(PyTuple_GET_ITEM(tensors, i), torch.tensor)) {
            PyErr_Format(PyExc_TypeError, "looks: a %s among the tensors", Py_TYPE(PyTuple_GET_ITEM(tensors, i))->tp_name);
            return 0;
        }
    return 1;
}

static void *handle_of(PyObject *tensor) { return (char *)tensor + torch.handle; }

/* Ask for the memory of objects and implementations at once: the looks below would wait for one after another. */
static void fetch(PyObject *tensors) {
    Py_ssize_t count = PyTuple_GET_SIZE(tensors);
    for (Py_ssize_t i = 0; i < count; i++) __builtin_prefetch(PyTuple_GET_ITEM(tensors, i));
    for (Py_ssize_t i = 0; i < count; i++) {
        char *implementation = *(char **)handle_of(PyTuple_GET_ITEM(tensors, i));
        for (int line = 0; line < 4; line++) __builtin_prefetch(implementation + 64 * line);
    }
}

/* How many of the tensors have moved, whose addresses are taken over; or what else is other than it was. */
static long compare(PyObject *tensors, row *known) {
    long moved = 0;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(tensors); i++) {
        void *handle = handle_of(PyTuple_GET_ITEM(tensors, i)), *address;
        int64_t size, offset;
        /* Torch refuses the address of memory that was taken away; Python asks again, and raises its error. */
        if (torch.data_ptr(handle, &address) || torch.storage_size(handle, &size) ||
            torch.storage_offset(handle, &offset))
            return NO_MEMORY;
        if (known[i].span && (!address || size < offset * known[i].itemsize + known[i].span)) return NO_MEMORY;
        if (known[i].address != (int64_t)(intptr_t)address) {
            known[i].address = (int64_t)(intptr_t)address;
            moved++;
        }
    }
    return moved;
}

/* look(tensors, check, known): `check` is called with the tensors first, unless it is None. */
static PyObject *look(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    if (!is_bound()) return NULL;
    if (count != 3 || !PyTuple_Check(args[0])) {
        PyErr_SetString(PyExc_TypeError, "look(tensors: tuple, check, known: int64 [tensors, 3])");
        return NULL;
    }
    PyObject *tensors = args[0];
    if (!all_tensors(tensors)) return NULL;
    fetch(tensors);
    if (args[1] != Py_None) {
        PyObject *same = PyObject_Call(args[1], tensors, NULL);
        if (!same) return NULL;
        int is_same = same == Py_True;
        Py_DECREF(same);
        if (!is_same) return PyLong_FromLong(OTHER_LAYOUT);
    }
    Py_buffer known;
    if (PyObject_GetBuffer(args[2], &known, PyBUF_WRITABLE | PyBUF_C_CONTIGUOUS)) return NULL;
    long found = 0;
    int fits = known.len == PyTuple_GET_SIZE(tensors) * (Py_ssize_t)sizeof(row);
    if (fits) found = compare(tensors, known.buf);
    PyBuffer_Release(&known);
    if (!fits) {
        PyErr_SetString(PyExc_ValueError, "look: known has not a row for each tensor");
        return NULL;
    }
    return PyLong_FromLong(found);
}

/* same_entries(state, entries, values): whether a dict holds these dicts, in order, and they hold these values. */
static PyObject *same_entries(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    if (count != 3 || !PyDict_Check(args[0]) || !PyTuple_Check(args[1]) || !PyTuple_Check(args[2])) {
        PyErr_SetString(PyExc_TypeError, "same_entries(state: dict, entries: tuple, values: tuple)");
        return NULL;
    }
    PyObject *state = args[0], *entries = args[1], *values = args[2], *key, *entry, *value;
    Py_ssize_t at = 0, entry_count = PyTuple_GET_SIZE(entries), value_count = PyTuple_GET_SIZE(values), e = 0, v = 0;
    if (PyDict_GET_SIZE(state) != entry_count) Py_RETURN_FALSE;
    while (PyDict_Next(state, &at, &key, &entry)) {
        if (e == entry_count || entry != PyTuple_GET_ITEM(entries, e) || !PyDict_Check(entry)) Py_RETURN_FALSE;
        e++;
        Py_ssize_t within = 0;
        while (PyDict_Next(entry, &within, &key, &value)) {
            if (v == value_count || value != PyTuple_GET_ITEM(values, v)) Py_RETURN_FALSE;
            v++;
        }
    }
    return PyBool_FromLong(e == entry_count && v == value_count);
}

static PyMethodDef methods[] = {
    {"bind", bind, METH_VARARGS, "bind(tensor_type, handle_offset, data_ptr, storage_size, storage_offset)"},
    {"look", (PyCFunction)(void (*)(void))look, METH_FASTCALL, "Tensors that moved, or -1: another layout, -2: no memory."},
    {"same_entries", (PyCFunction)(void (*)(void))same_entries, METH_FASTCALL, "Whether a state is the same objects."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "kernels_looks", "See kernels/optim/looks.c.", -1, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit_kernels_looks(void) { return PyModule_Create(&definition); }
