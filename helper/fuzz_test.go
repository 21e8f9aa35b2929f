//go:build integration

package main

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"libvirt-direct/integration/host/hosttest"
)

// TestRandomCallers has three users call the helper with whatever a caller controls, do with their devices whatever a
// holder can, and end at any moment, in stories that a seed tells. After each step the host, the log and the registry
// have to agree (fuzz_check_test.go).
//
// This is no target of go test -fuzz. Its guide is the coverage of the process that runs the target, and the helper is
// another process, whose coverage a setuid program does not give away; and its workers are processes that would each need
// the tests' namespaces. What is random in step n depends on the seed and n alone, so that a story can be told again, and
// again with steps left out: the test does so with one that fails, until no step is superfluous.
//
// A failure names its seed and the steps that are needed. It is told again by
//
//	go test -tags integration ./helper -run TestRandomCallers -v -seed 17 -only 3,8,21
//
// What the kernel does meanwhile, and when a signal comes, is not in the seed: a race may take several tries (-count).
var (
	fuzzSeed     = flag.Uint64("seed", 0, "the one story that TestRandomCallers tells")
	fuzzOnly     = flag.String("only", "", "the steps of that story, separated by commas; all if empty")
	fuzzSteps    = flag.Int("steps", 100, "how many steps a story has")
	fuzzDuration = flag.Duration("duration", 0, "how long TestRandomCallers tells stories, of other seeds each time; a fixed set of stories if 0")
)

// What is spent on a story that failed.
const (
	shrinkTries = 40
	shrinkTime  = time.Minute
)

// storytellers tell stories at a time: most calls that are refused wait for a second.
const storytellers = 3

func TestRandomCallers(t *testing.T) {
	for name, uid := range callers {
		addUserAs(t, name, int(uid))
	}
	if *fuzzSeed != 0 {
		steps := allSteps()
		if *fuzzOnly != "" {
			steps = nil
			for _, s := range strings.Split(*fuzzOnly, ",") {
				n, err := strconv.Atoi(s)
				if err != nil {
					t.Fatal(err)
				}
				steps = append(steps, n)
			}
		}
		tellSeed(t, *fuzzSeed, steps, false)
		return
	}
	next, last := uint64(1), uint64(hosttest.Rounds(9, 200))
	end := time.Now().Add(24 * time.Hour)
	if *fuzzDuration > 0 {
		next, last, end = rand.Uint64N(1<<40)+1000, 1<<62, time.Now().Add(*fuzzDuration)
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	told := 0
	for range storytellers {
		wg.Go(func() {
			for {
				mu.Lock()
				seed := next
				if seed > last || time.Now().After(end) {
					mu.Unlock()
					return
				}
				next++
				told++
				mu.Unlock()
				tellSeed(t, seed, allSteps(), true)
			}
		})
	}
	wg.Wait()
	t.Logf("%d stories of %d steps", told, *fuzzSteps)
}

func allSteps() (out []int) {
	for n := range *fuzzSteps {
		out = append(out, n)
	}
	return out
}

// tellSeed tells a story and, if it fails, looks for a shorter one that does.
func tellSeed(t *testing.T, seed uint64, steps []int, shrink bool) {
	var trace []string
	var broken error
	if !t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) { trace, broken = tell(t, seed, steps) }) {
		return // it is not the helper that failed
	}
	if broken == nil {
		if !shrink {
			t.Log(strings.Join(trace, "\n"))
		}
		return
	}
	t.Errorf("seed %d, %d steps: %v\n%s", seed, len(steps), broken, strings.Join(trace, "\n"))
	if !shrink {
		return
	}
	tries, end := 0, time.Now().Add(shrinkTime)
	fails := func(some []int) bool {
		if tries++; tries > shrinkTries || time.Now().After(end) {
			return false
		}
		var tr []string
		var err error
		if t.Run(fmt.Sprintf("seed %d, shorter", seed), func(t *testing.T) { tr, err = tell(t, seed, some) }) && err != nil {
			trace, broken = tr, err
			return true
		}
		return false
	}
	var v violation
	if errors.As(broken, &v) && v.step >= 0 { // what comes later has nothing to do with it
		if head := steps[:slices.Index(steps, v.step)+1]; fails(head) {
			steps = head
		}
	}
	steps = shorten(steps, fails)
	var only []string
	for _, n := range steps {
		only = append(only, strconv.Itoa(n))
	}
	t.Errorf("-seed %d -only %s: %v\n%s", seed, strings.Join(only, ","), broken, strings.Join(trace, "\n"))
}

// shorten leaves out steps, many at a time at first, as long as the rest fails.
func shorten(steps []int, fails func([]int) bool) []int {
	for size := len(steps) / 2; size > 0; size /= 2 {
		for at := 0; at < len(steps); {
			rest := slices.Delete(slices.Clone(steps), at, min(at+size, len(steps)))
			if fails(rest) {
				steps = rest
			} else {
				at += size
			}
		}
	}
	return steps
}

// violation is a promise that was not kept.
type violation struct {
	step int
	text string
}

func (v violation) Error() string { return fmt.Sprintf("step %d: %s", v.step, v.text) }

// tell plays the steps in a host of its own.
func tell(t *testing.T, seed uint64, steps []int) (trace []string, broken error) {
	s := newStory(t, seed)
	defer func() {
		trace = s.trace
		switch v := recover().(type) {
		case nil:
		case violation:
			broken = v
		default:
			panic(v)
		}
		s.end()
	}()
	s.rng = s.random(-1)
	s.configure()
	s.settle()
	for _, n := range steps {
		s.rng = s.random(n)
		s.step = n
		s.once()
		s.settle()
	}
	s.step = -1
	s.rng = s.random(1 << 20)
	s.epilogue()
	return nil, nil
}

// random is what happens in one step.
func (s *story) random(step int) *rand.Rand { return rand.New(rand.NewPCG(s.seed, uint64(step))) }

func (s *story) note(format string, args ...any) {
	s.trace = append(s.trace, fmt.Sprintf("%3d %s  ", s.step, time.Since(s.began).Round(time.Millisecond))+fmt.Sprintf(format, args...))
}

// must says what was promised.
func (s *story) must(ok bool, format string, args ...any) {
	if !ok {
		panic(violation{s.step, fmt.Sprintf(format, args...)})
	}
}

func (s *story) chance(percent int) bool { return s.rng.IntN(100) < percent }

func oneOf[T any](s *story, of ...T) T { return of[s.rng.IntN(len(of))] }

// once is one step.
func (s *story) once() {
	type action struct {
		weight int
		do     func()
	}
	actions := []action{
		{36, s.callOnce}, {8, s.race}, {5, s.leaveStopped}, {6, s.endStopped}, {4, s.killAtCall}, {6, s.configure},
		{6, s.closeSome}, {7, s.closeDevice}, {6, s.reopen}, {6, s.passOn}, {12, s.takeAddress}, {20, s.tunIoctls},
		{6, s.joinByName}, {12, s.frames}, {4, s.systemGuest},
	}
	sum := 0
	for _, a := range actions {
		sum += a.weight
	}
	n := s.rng.IntN(sum)
	for _, a := range actions {
		if n -= a.weight; n < 0 {
			a.do()
			return
		}
	}
}

// epilogue has everything closed, and then everything possible again.
func (s *story) epilogue() {
	for _, v := range slices.Clone(s.visits) {
		s.note("kill -9 %d", v.cmd.Process.Pid)
		v.signalled = true
		_ = v.cmd.Process.Kill()
		s.collect(v)
	}
	for _, g := range slices.Clone(s.devices) {
		s.closeAll(g)
	}
	s.settle()
	s.useConfiguration(everything())
	for _, uid := range []uint32{alice, bob} {
		for _, name := range []string{"iso", "flat", "seen", "vf", "port", "tap", "taps", "br0"} {
			v := s.request(uid, name, "")
			if name == "port" || name == "iso" {
				v.mac = s.freshMAC()
			}
			s.start(v)
			s.collect(v)
		}
	}
	s.settle()
	for _, g := range slices.Clone(s.devices) {
		s.closeAll(g)
	}
	s.settle()
	s.must(!slices.ContainsFunc(s.left, func(l *leftover) bool { return !l.visible }), "a persistent device is left after grants")
}
