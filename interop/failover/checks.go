package main

import (
	"bufio"
	"fmt"
	"os"
	"time"
)

func check(name string, got, want any) {
	if fmt.Sprint(got) == fmt.Sprint(want) {
		fmt.Println("ok", name)
	} else {
		fmt.Printf("FAIL %s: got %v, want %v\n", name, got, want)
	}
}

// must ends the run at an error that no check expects: what follows would only repeat it.
func must[T any](answer T, err error) T {
	if err != nil {
		fmt.Printf("FAIL an unexpected error: %v\n", err)
		os.Exit(1)
	}
	return answer
}

func done(err error) {
	must(0, err)
}

// waitUntil waits for what must come to be: longer than a lease lives on after the death of a leader.
func waitUntil(name string, holds func() bool) {
	deadline := time.Now().Add(patience)
	for !holds() && time.Now().Before(deadline) {
		time.Sleep(20 * time.Millisecond)
	}
	check(name, holds(), true)
}

// haveLeaderKilled returns once the leader is dead.
func haveLeaderKilled() {
	fmt.Println("kill leader")
	if answer := must(bufio.NewReader(os.Stdin).ReadString('\n')); answer != "killed\n" {
		check("somebody kills the leader", answer, "killed")
	}
}
