/* Two hundred threads that count together. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>

static atomic_long total;

static void *count(void *unused) {
    (void)unused;
    for (int i = 0; i < 10000; i++)
        atomic_fetch_add(&total, 1);
    return NULL;
}

int main(void) {
    pthread_t threads[200];
    int made = 0;
    for (; made < 200; made++)
        if (pthread_create(&threads[made], NULL, count, NULL))
            break;
    for (int i = 0; i < made; i++)
        pthread_join(threads[i], NULL);
    printf("%d threads counted to %ld\n", made, atomic_load(&total));
    return 0;
}
