<?php

namespace App;

use Illuminate\Bus\Batchable;
use Illuminate\Bus\Queueable;
use Illuminate\Contracts\Queue\ShouldQueue;
use Illuminate\Queue\InteractsWithQueue;

/** A job that does nothing but say that it began and that it came to its end. */
class Work implements ShouldQueue
{
    use Batchable, InteractsWithQueue, Queueable;

    public function __construct(public string $id)
    {
    }

    public function handle(): void
    {
        Diary::note('begun', $this->id, Diary::now());
        usleep(2000);
        Diary::note('done', $this->id, Diary::now());
    }
}
