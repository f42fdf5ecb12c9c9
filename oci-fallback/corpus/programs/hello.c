/* Writes to both outputs and exits with the number that it was given. */
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv) {
    printf("hello from c\n");
    fprintf(stderr, "and this is an error\n");
    return argc > 1 ? atoi(argv[1]) : 0;
}
