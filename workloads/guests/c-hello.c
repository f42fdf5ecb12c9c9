/* Says hello and repeats its arguments, as hello.rs does, from C. */
#include <stdio.h>

int main(int argc, char **argv) {
    puts("hello from c");
    for (int i = 1; i < argc; i++)
        puts(argv[i]);
    return 0;
}
