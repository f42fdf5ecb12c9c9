// Says what it was given.
package main

import (
	"fmt"
	"os"
	"runtime"
	"strings"
)

func main() {
	results := make(chan int)
	for i := range 100 {
		go func() { results <- i }()
	}
	sum := 0
	for range 100 {
		sum += <-results
	}
	fmt.Println(runtime.GOOS, strings.Join(os.Args[1:], " "), sum)
}
