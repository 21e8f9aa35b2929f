package lldpad

import "sync"

const queueLen = 256

// A fanout hands each value to every subscriber.
type fanout[T any] struct {
	mu     sync.Mutex
	queues map[*queue[T]]struct{}
}

// subscribe returns a queue that gets every value from now on, until cancel.
func (f *fanout[T]) subscribe() (q *queue[T], cancel func()) {
	q = &queue[T]{ch: make(chan T, queueLen), lost: make(chan struct{}, 1)}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.queues == nil {
		f.queues = make(map[*queue[T]]struct{})
	}
	f.queues[q] = struct{}{}
	return q, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.queues, q)
	}
}

func (f *fanout[T]) put(v T) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for q := range f.queues {
		q.put(v)
	}
}

// A queue is a channel whose writer never waits.
type queue[T any] struct {
	ch   chan T
	lost chan struct{} // has a value after something did not fit
}

func (q *queue[T]) put(v T) {
	select {
	case q.ch <- v:
		return
	default:
	}
	select {
	case q.lost <- struct{}{}:
	default:
	}
}
