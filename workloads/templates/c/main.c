/* Adds up numbers: its arguments or, without any, the lines of its input.
 *
 * A guest has only what it is given: no file, no network and no variable otherwise. See README.md. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* A folder that outlives a run, where one is given: `vyr run --state totals REF`. */
#define STATE "/state/totals"

static int fail(const char *what, const char *why) {
    fprintf(stderr, "error: %s: %s\n", what, why);
    return EXIT_FAILURE;
}

/* Adds the number that is all of `word`; 0 when it isn't one. */
static int add(double *sum, char *word) {
    char *end;
    word[strcspn(word, "\r\n")] = '\0';
    double number = strtod(word, &end);
    if (end == word || *end != '\0')
        return 0;
    *sum += number;
    return 1;
}

int main(int argc, char **argv) {
    double sum = 0;
    int count = 0;
    char line[256];
    for (int i = 1; i < argc; i++, count++)
        if (!add(&sum, argv[i]))
            return fail(argv[i], "not a number");
    for (; argc == 1 && fgets(line, sizeof line, stdin); count++)
        if (!add(&sum, line))
            return fail(line, "not a number");
    printf("%d numbers, sum %g\n", count, sum);

    struct stat state;
    if (stat(STATE, &state) == 0) {
        double total = sum;
        FILE *file = fopen(STATE "/sum", "r");
        if (file) {
            int whole = fgets(line, sizeof line, file) && add(&total, line);
            fclose(file);
            if (!whole)
                return fail(STATE "/sum", "not a number");
        } else if (errno != ENOENT) {
            return fail(STATE "/sum", strerror(errno));
        }
        file = fopen(STATE "/sum", "w");
        if (!file || fprintf(file, "%.17g", total) < 0 || fclose(file) != 0)
            return fail(STATE "/sum", strerror(errno));
        printf("sum of all runs %g\n", total);
    }
    return EXIT_SUCCESS;
}
