/* As the first process: fifty grandchildren whose parents end, each of which it has to reap. */
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

int main(void) {
    for (int i = 0; i < 50; i++)
        if (fork() == 0) {
            if (fork() == 0) {
                usleep(100000);
                _exit(0);
            }
            _exit(0);
        }
    int reaped = 0;
    while (wait(NULL) > 0)
        reaped++;
    printf("process %d reaped %d\n", getpid(), reaped);
    return 0;
}
