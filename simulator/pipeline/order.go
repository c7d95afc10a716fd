package pipeline

// work is what an operation of a stage does.
type work uint8

const (
	forward work = iota
	backward
	weight
)

// operation is one entry of a stage's list.
type operation struct {
	work  work
	chunk int // of the device
	micro int
}

// order is a stage's list for one iteration.
func (m Model) order(stage int) []operation {
	switch m.Schedule {
	case GPipe:
		return m.gpipe()
	case OneFOneB:
		return m.oneFOneB(stage)
	case ZBH1:
		return m.zbH1(stage)
	case Interleaved:
		return m.interleaved(stage)
	case ZBV:
		return m.zbv(stage)
	}
	return nil
}

func (m Model) gpipe() []operation {
	var list []operation
	for i := range m.MicroBatches {
		list = append(list, operation{forward, 0, i})
	}
	for i := range m.MicroBatches {
		list = append(list, operation{backward, 0, i})
	}
	return list
}

func (m Model) oneFOneB(stage int) []operation {
	warmUp := min(m.Stages-stage-1, m.MicroBatches)
	var list []operation
	for i := range warmUp {
		list = append(list, operation{forward, 0, i})
	}
	for i := range m.MicroBatches {
		if next := i + warmUp; next < m.MicroBatches {
			list = append(list, operation{forward, 0, next})
		}
		list = append(list, operation{backward, 0, i})
	}
	return list
}

// zbH1 is 1F1B with the weights' gradients put off by as many micro-batches as
// there are stages before this one: they fill the drain, and every stage keeps as
// many activations as the first.
func (m Model) zbH1(stage int) []operation {
	var list []operation
	weights := 0
	backwards := 0
	for _, op := range m.oneFOneB(stage) {
		list = append(list, op)
		if op.work != backward {
			continue
		}
		backwards++
		if backwards > stage {
			list = append(list, operation{weight, 0, weights})
			weights++
		}
	}
	for ; weights < m.MicroBatches; weights++ {
		list = append(list, operation{weight, 0, weights})
	}
	return list
}

// interleaved runs micro-batches in groups of as many as there are stages through
// chunk after chunk.
func (m Model) interleaved(stage int) []operation {
	total := m.MicroBatches * m.Chunks
	group := m.Stages * m.Chunks
	at := func(k int) (chunk, micro int) { return k % group / m.Stages, k/group*m.Stages + k%m.Stages }
	warmUp := min((m.Stages-stage-1)*2+(m.Chunks-1)*m.Stages, total)
	var list []operation
	push := func(w work, k int) {
		chunk, micro := at(k)
		if w == backward {
			chunk = m.Chunks - 1 - chunk
		}
		list = append(list, operation{w, chunk, micro})
	}
	for k := range warmUp {
		push(forward, k)
	}
	for k := range total {
		if k+warmUp < total {
			push(forward, k+warmUp)
		}
		push(backward, k)
	}
	return list
}

// zbvBuilder hands out micro-batches per kind of work and chunk.
type zbvBuilder struct {
	list  []operation
	micro int // micro-batches that there really are: later ones are left out
	count [3][2]int
}

func (b *zbvBuilder) push(w work, chunk int) {
	if i := b.count[w][chunk]; i < b.micro {
		b.list = append(b.list, operation{w, chunk, i})
	}
	b.count[w][chunk]++
}

// zbv lets activations run down the devices and up again. The list is the one for
// at least 2*stages-1 micro-batches, without those that there are not.
func (m Model) zbv(stage int) []operation {
	b := &zbvBuilder{micro: m.MicroBatches}
	full := max(2*m.Stages-1, m.MicroBatches)
	forwards, backwards, weights := &b.count[forward], &b.count[backward], &b.count[weight]
	for range 2*(m.Stages-stage) - 1 {
		b.push(forward, 0)
	}
	for range stage {
		b.push(forward, 1)
		b.push(forward, 0)
	}
	for range m.Stages - stage {
		b.push(forward, 1)
		b.push(backward, 1)
		b.push(weight, 1)
	}
	for forwards[1] < forwards[0] || forwards[0] < full {
		if forwards[0] < full {
			b.push(forward, 0)
		}
		b.push(backward, 0)
		b.push(weight, 0)
		b.push(forward, 1)
		b.push(backward, 1)
		b.push(weight, 1)
	}
	for range stage {
		b.push(backward, 0)
		b.push(backward, 1)
	}
	for range m.Stages - stage {
		b.push(backward, 0)
		b.push(weight, 0)
	}
	for weights[1] < backwards[1] {
		b.push(weight, 1)
	}
	for weights[0] < backwards[0] {
		b.push(weight, 0)
	}
	return b.list
}

// virtual is the place of a device's chunk among all that activations run
// through: round and round, or for zbv down and up.
func (m Model) virtual(stage, chunk int) int {
	if m.Schedule == ZBV && chunk == 1 {
		return 2*m.Stages - 1 - stage
	}
	return chunk*m.Stages + stage
}

// device is the stage that has a virtual place.
func (m Model) device(virtual int) int {
	if m.Schedule == ZBV && virtual >= m.Stages {
		return 2*m.Stages - 1 - virtual
	}
	return virtual % m.Stages
}
