/* A stand-in for NVIDIA's libcuda.so.1, built by the tests: as much of it as tests/gpu/cuda.py calls. What a process
 * holds of the one card stands in the file "held.PID" of the folder CUDA_STANDIN, in bytes; "capacity" there says how
 * many MiB there are. The dead hold nothing. With an empty CUDA_VISIBLE_DEVICES there is no card.
 */
#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#define MIB (1024ULL * 1024ULL)
#define CONTEXT (400 * MIB)

enum { OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, NO_DEVICE = 100 };

typedef struct { size_t size; } block_t;

static unsigned long long held;
static int initialised;

static void path_of(char *path, size_t size, const char *name) {
    snprintf(path, size, "%s/%s", getenv("CUDA_STANDIN"), name);
}

static unsigned long long number_in(const char *name) {
    char path[4096];
    unsigned long long number = 0;
    path_of(path, sizeof path, name);
    FILE *file = fopen(path, "r");
    if (!file) return 0;
    if (fscanf(file, "%llu", &number) != 1) number = 0;
    fclose(file);
    return number;
}

/* Neither gone nor a zombie, whose memory is gone too. */
static int lives(const char *pid) {
    char path[64], line[512], *after;
    snprintf(path, sizeof path, "/proc/%.20s/stat", pid);
    FILE *file = fopen(path, "r");
    if (!file) return 0;
    size_t length = fread(line, 1, sizeof line - 1, file);
    fclose(file);
    line[length] = 0;
    after = strrchr(line, ')');
    return after && after[1] && after[2] != 'Z' && after[2] != 'X';
}

static unsigned long long held_by_others(void) {
    char mine[32];
    unsigned long long sum = 0;
    struct dirent *entry;
    DIR *folder = opendir(getenv("CUDA_STANDIN"));
    snprintf(mine, sizeof mine, "held.%d", getpid());
    while (folder && (entry = readdir(folder)))
        if (!strncmp(entry->d_name, "held.", 5) && isdigit(entry->d_name[5]) && strcmp(entry->d_name, mine) &&
            lives(entry->d_name + 5))
            sum += number_in(entry->d_name);
    if (folder) closedir(folder);
    return sum;
}

/* Hold so much more, where there is room; who takes waits for whoever else does. */
static int grow(unsigned long long size) {
    char path[4096], name[48];
    path_of(path, sizeof path, "lock");
    int lock = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0600), failed = OK;
    flock(lock, LOCK_EX);
    if (held + size + held_by_others() > number_in("capacity") * MIB) {
        failed = OUT_OF_MEMORY;
    } else {
        char new[4096];
        held += size;
        snprintf(name, sizeof name, "new.%d", getpid());
        path_of(new, sizeof new, name);
        snprintf(name, sizeof name, "held.%d", getpid());
        path_of(path, sizeof path, name);
        FILE *file = fopen(new, "w");
        fprintf(file, "%llu\n", held);
        fclose(file);
        rename(new, path);
    }
    close(lock);
    return failed;
}

int cuInit(unsigned flags) {
    const char *seen = getenv("CUDA_VISIBLE_DEVICES");
    (void)flags;
    if (!getenv("CUDA_STANDIN") || (seen && !*seen)) return NO_DEVICE;
    initialised = 1;
    return OK;
}
int cuDeviceGet(int *device, int number) {
    if (!initialised) return NOT_INITIALIZED;
    *device = 0;
    return number ? INVALID_VALUE : OK;
}
int cuDevicePrimaryCtxRetain(void **context, int device) {
    (void)device;
    *context = &held;
    return initialised ? grow(CONTEXT) : NOT_INITIALIZED;
}
int cuCtxSetCurrent(void *context) { return context == &held ? OK : INVALID_VALUE; }
int cuCtxSynchronize(void) { return OK; }
int cuMemAlloc_v2(void **pointer, size_t size) {
    int failed = grow(size);
    if (failed) return failed;
    block_t *block = malloc(sizeof *block);
    block->size = size;
    *pointer = block;
    return OK;
}
int cuMemsetD8_v2(void *pointer, unsigned char value, size_t size) {
    (void)value;
    return size <= ((block_t *)pointer)->size ? OK : INVALID_VALUE;
}
int cuMemFree_v2(void *pointer) {
    unsigned long long size = ((block_t *)pointer)->size;
    free(pointer);
    return grow(-size);
}
