// kfake runs an imitation of a Kafka cluster of three brokers whose errors a test chooses.
//
// It prints the addresses of the brokers as JSON, and then an answer to each line of stdin, which is
// a command. It ends with its stdin.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const produce = 0

type command struct {
	Topic     string // with Move: move its partition 0 to this broker; else create it
	Move      *int32
	Configs   map[string]string
	Error     int16 // answer the next Count produce requests with this code
	Count     int
	Partition *int32
	Hang      int // leave this many produce requests without an answer, and store nothing
}

func main() {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(3))
	if err != nil {
		fail(err)
	}
	defer cluster.Close()
	answer(cluster.ListenAddrs())
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var one command
		if err := json.Unmarshal(lines.Bytes(), &one); err != nil {
			fail(err)
		}
		if err := one.run(cluster); err != nil {
			fail(err)
		}
		answer("done")
	}
}

func (c command) run(cluster *kfake.Cluster) error {
	switch {
	case c.Move != nil:
		return cluster.MoveTopicPartition(c.Topic, 0, *c.Move)
	case c.Topic != "":
		return cluster.CreateTopic(c.Topic, 3, c.Configs)
	case c.Error != 0:
		fault := kfake.Fault{Keys: []kmsg.Key{produce}, Count: c.Count, Err: kerr.TypedErrorForCode(c.Error)}
		if c.Partition != nil {
			fault.Partitions = []int32{*c.Partition}
		}
		cluster.Fault(fault)
	case c.Hang > 0:
		for range c.Hang {
			cluster.ControlKey(produce, func(kmsg.Request) (kmsg.Response, error, bool) {
				return nil, nil, true
			})
		}
	}
	return nil
}

func answer(value any) {
	line, err := json.Marshal(value)
	if err != nil {
		fail(err)
	}
	fmt.Println(string(line))
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
