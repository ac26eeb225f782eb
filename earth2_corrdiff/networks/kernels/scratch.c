// SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
// SPDX-License-Identifier: Apache-2.0
#include "common.h"
#include <pthread.h>

int e2c_vector_length(void) { return VL; }

static pthread_key_t at_exit; // a service has threads that come and go
static int kept;

static void make_key(void) { kept = !pthread_key_create(&at_exit, free); }

void *e2c_scratch(size_t bytes) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    static _Thread_local void *memory;
    static _Thread_local size_t size;
    if (size < bytes) {
        free(memory);
        size = (bytes + 4095) & ~(size_t)4095;
        memory = aligned_alloc(4096, size);
        if (!memory)
            size = 0;
        pthread_once(&once, make_key);
        if (kept)
            pthread_setspecific(at_exit, memory);
    }
    return memory;
}
