/* A TFLite delegate for tests: it runs the pools of a network itself, and fails as DELEGATE_FOR_TESTS says:
 *
 *   right        does its work
 *   none         takes no operator
 *   refuse       cannot be made, and says why
 *   crash        ends the process while it is loaded
 *   hang         never comes back
 *   wrong        gives other values than it should
 *   N            after N steps, every step is an error: the device has gone
 *
 * The structures are the beginnings of those in tensorflow/lite/core/c/common.h.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OK = 0, ERROR = 1, MAX_POOL_2D = 17 };

typedef struct { int size; int data[]; } IntArray;
typedef struct { int type; union { int8_t *int8; } data; IntArray *dims; float scale; int32_t zero_point; int kind; size_t bytes;
                 void *allocation; const char *name; void *delegate; int buffer_handle; char stale, variable; void *quantization[2];
                 void *sparsity; void *dims_signature; } Tensor;
typedef struct { IntArray *inputs, *outputs, *intermediates, *temporaries; void *user_data, *builtin_data; } Node;

typedef struct Context Context;
typedef struct Delegate Delegate;

typedef struct {
    void *(*init)(Context *, const char *, size_t);
    void (*free)(Context *, void *);
    int (*prepare)(Context *, Node *);
    int (*invoke)(Context *, Node *);
    const char *(*profiling_string)(const Context *, const Node *);
    int32_t builtin_code;
    const char *custom_name;
    int version;
    void *registration_external;
    void *(*async_kernel)(Context *, Node *);
    uint64_t inplace_operator;
} Registration;

struct Context {
    size_t tensors_size;
    int (*get_execution_plan)(Context *, IntArray **);
    Tensor *tensors;
    void *impl;
    int (*resize_tensor)(Context *, Tensor *, IntArray *);
    void (*report_error)(Context *, const char *, ...);
    int (*add_tensors)(Context *, int, int *);
    int (*get_node_and_registration)(Context *, int, Node **, Registration **);
    int (*replace_node_subsets)(Context *, Registration, const IntArray *, Delegate *);
};

struct Delegate {
    void *data;
    int (*prepare)(Context *, Delegate *);
    void *copy_from, *copy_to, *free_handle;
    int64_t flags;
    void *builder;
};

static int steps;

static const char *behaviour(void) {
    const char *said = getenv("DELEGATE_FOR_TESTS");
    return said ? said : "right";
}

static int nothing(Context *context, Node *node) {
    (void)context, (void)node;
    return OK;
}

/* The maximum of each two times two values, as (1, height, width, channels). */
static int pool(Context *context, Node *node) {
    int last = atoi(behaviour());
    if (last > 0 && ++steps > last) {
        context->report_error(context, "the device has gone\n");
        return ERROR;
    }
    Tensor *from = &context->tensors[node->inputs->data[0]], *to = &context->tensors[node->outputs->data[0]];
    int width = from->dims->data[2], channels = from->dims->data[3], wrong = strcmp(behaviour(), "wrong") == 0;
    int8_t *out = to->data.int8;
    for (int y = 0; y < to->dims->data[1]; y++)
        for (int x = 0; x < to->dims->data[2]; x++)
            for (int c = 0; c < channels; c++) {
                int8_t most = -128;
                for (int part = 0; part < 4 && !wrong; part++) {
                    int8_t value = from->data.int8[((2 * y + part / 2) * width + 2 * x + part % 2) * channels + c];
                    most = value > most ? value : most;
                }
                *out++ = most;
            }
    return OK;
}

static int take_pools(Context *context, Delegate *delegate) {
    IntArray *plan, *taken;
    Node *node;
    Registration *registration, ours = {.prepare = nothing, .invoke = pool, .custom_name = "pool for tests", .version = 1};
    if (context->get_execution_plan(context, &plan) != OK) return ERROR;
    taken = calloc(1, sizeof(IntArray) + sizeof(int) * plan->size);
    for (int i = 0; i < plan->size; i++) {
        int number = plan->data[i];
        if (context->get_node_and_registration(context, number, &node, &registration) != OK) return ERROR;
        if (registration->builtin_code == MAX_POOL_2D && strcmp(behaviour(), "none") != 0) taken->data[taken->size++] = number;
    }
    int status = context->replace_node_subsets(context, ours, taken, delegate);
    free(taken);
    return status;
}

void *tflite_plugin_create_delegate(char **keys, char **values, size_t n, void (*report_error)(const char *)) {
    (void)keys, (void)values, (void)n;
    if (strcmp(behaviour(), "refuse") == 0) {
        report_error("no such device is plugged in");
        return NULL;
    }
    if (strcmp(behaviour(), "crash") == 0) abort();
    while (strcmp(behaviour(), "hang") == 0) sleep(1);
    Delegate *delegate = calloc(1, sizeof(Delegate));
    delegate->prepare = take_pools;
    return delegate;
}

void tflite_plugin_destroy_delegate(void *delegate) { free(delegate); }
