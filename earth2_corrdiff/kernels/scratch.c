// SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
// SPDX-License-Identifier: Apache-2.0
#include "common.h"

int e2c_vector_length(void) { return VL; }

void *e2c_scratch(size_t bytes) {
    static _Thread_local void *memory;
    static _Thread_local size_t size;
    if (size < bytes) {
        free(memory);
        size = (bytes + 4095) & ~(size_t)4095;
        memory = aligned_alloc(4096, size);
        if (!memory)
            size = 0;
    }
    return memory;
}
