<?php
/**
 * php-fpm style: each "request" builds the application anew, connects, authenticates, uses session, cache, locks
 * and a counter as a page does, and disconnects. `--transactions` adds Cache::putMany (MULTI/EXEC).
 */

require __DIR__.'/bootstrap.php';

$options = options(['transactions' => false]);
$tally = new Tally($options);
$run = $options['run'];
$raw = fn ($key) => REDIS_PREFIX.CACHE_PREFIX.":$key";
$sessions = [];     // id => [values that the session may hold; the last one is acknowledged alone]
$pages = [];        // the last pages that were cached and acknowledged: key => value
$locks = 0;         // a lock whose fate is unknown is left to expire: the next one has another name

$tally->once(fn () => $tally->step('connect', fn () => plantDatabaseMarks(application($options))));

$tally->loop(function (int $n) use ($options, $tally, $run, $raw, &$sessions, &$pages, &$locks) {
    $app = application($options);
    $cache = $app['cache']->store();

    // The session middleware, before the page.
    $id = substr(sha1("$run ".($n % 20)), 0, 40);
    $session = $app['session']->driver();
    $session->setId($id);
    $tally->step('session read', fn () => $session->start());
    if ($known = $sessions[$id] ?? []) {
        $visits = $session->get('visits');
        // A lost reply leaves two possible values; what is older than the last acknowledged one is missing.
        $possible = $known['possible'];
        in_array($visits, $possible, true) || $tally->expect("session $id", end($possible), $visits, $known['older']);
    }

    // The page.
    checkDatabases($app, $tally);
    $tally->watchSockets(true); // Both connections are open by now; another socket is a reconnect.
    $key = "page:$run:$n";
    $page = ['n' => $n, 'html' => str_repeat("page $n ", 20)];
    $tally->write('cache put', 1, $raw($key), serialize($page), fn () => $cache->put($key, $page, 3600));
    $tally->expect("cache get $key", $page, $tally->step('cache get', fn () => $cache->get($key)));
    $pages[$key] = $page;
    $pages = array_slice($pages, -5);
    $found = $tally->step('cache many', fn () => $cache->many(array_keys($pages)));
    foreach ($pages as $name => $value) {
        $tally->expect("cache many $name", $value, $found[$name] ?? null);
    }

    $add = "add:$run:$n";
    $tally->write('cache add', 1, $raw($add), (string) $n, fn () => $cache->add($add, $n, 3600));
    if ($tally->step('cache add again', fn () => $cache->add($add, -1, 3600)) !== false) {
        $tally->missing("cache add again $add", false, true);
    }

    $tally->count('cache increment', 1, $raw("hits:$run"), fn () => $cache->increment("hits:$run"));

    $remember = "remember:$run:$n";
    $tally->expect("cache remember $remember", "r$n", $tally->step('cache remember',
        fn () => $cache->remember($remember, 3600, fn () => "r$n")));
    $tally->acknowledge(1, $raw($remember), serialize("r$n"));
    $tally->expect("cache remember again $remember", "r$n", $tally->step('cache remember again',
        fn () => $cache->remember($remember, 3600, fn () => null)));

    $tally->step('cache put to forget', fn () => $cache->put("gone:$run", 1, 60));
    $tally->expect("cache forget", true, $tally->step('cache forget', fn () => $cache->forget("gone:$run")));

    if ($options['transactions']) {
        $many = ["many:$run:$n:a" => "a$n", "many:$run:$n:b" => "b$n"];
        $tally->expect('cache putMany', true, $tally->step('cache putMany', fn () => $cache->putMany($many, 3600)));
        foreach ($many as $name => $value) {
            $tally->acknowledge(1, $raw($name), serialize($value));
            $tally->expect("cache get $name", $value, $tally->step('cache get after putMany', fn () => $cache->get($name)));
        }
    }

    $name = "lock:$run:".$locks++;
    $lock = $cache->lock($name, 30);
    $tally->expect("lock get $name", true, $tally->step('lock get', fn () => $lock->get()));
    $tally->expect("lock release $name", true, $tally->step('lock release', fn () => $lock->release()));
    $locks--;

    // The session middleware, after the page.
    $session->put('visits', $n);
    $stored = REDIS_PREFIX.CACHE_PREFIX.":$id";
    $known = $sessions[$id] ?? ['possible' => [null], 'older' => []];
    $sessions[$id]['possible'] = [...$known['possible'], $n];
    $sessions[$id]['older'] = $known['older'];
    $tally->forget(0, $stored);
    $tally->step('session write', fn () => $session->save());
    $sessions[$id] = ['possible' => [$n], 'older' => array_slice([...$known['older'], ...$known['possible']], -20)];
    $tally->acknowledge(0, $stored, serialize(serialize($session->all())));

    $tally->watchSockets();
    foreach ($app['redis']->connections() as $connection) {
        $connection->disconnect();
    }
});

$tally->finish();
