-- ai_query(), ai_query_many() and ai_embed(): models of a Weighbridge gateway, called from SQL.
--
-- For any database of PostgreSQL 14 or newer that has the contrib module dblink. Run it whole, in one transaction, as a
-- superuser (a provider's administrator where dblink may be created by one); again at any time, to renew it.
-- It must be told where the gateway's own database is, and how to log in there:
--
--   SET weighbridge.host = '10.0.0.5'; SET weighbridge.port = '5432'; SET weighbridge.dbname = 'system';
--   SET weighbridge.login = 'warehouse_caller'; SET weighbridge.password = '...';
--
-- What keeps it safe: dblink lives in a schema that one role without a login may use, and of dblink that role has one
-- function, which opens a connection for a single statement and closes it, whatever happens. The password is in a user
-- mapping of that role. The connection's role may submit calls, wait for its own and cancel them, and nothing else.
-- Whoever calls is known by its effective role; the gateway decides what that role may do.

DO $install$
DECLARE
    host text := coalesce(current_setting('weighbridge.host', true), '');
    port text := coalesce(nullif(current_setting('weighbridge.port', true), ''), '5432');
    dbname text := coalesce(current_setting('weighbridge.dbname', true), '');
    login text := coalesce(nullif(current_setting('weighbridge.login', true), ''), 'weighbridge_caller');
    password text := coalesce(current_setting('weighbridge.password', true), '');
    elsewhere text;
    given text;
    known text[];
    one record;
BEGIN
    IF current_setting('server_version_num')::int < 140000 THEN
        RAISE EXCEPTION 'ai_query() needs PostgreSQL 14 or newer';
    END IF;
    IF dbname = '' OR password = '' THEN
        RAISE EXCEPTION 'say first where the gateway is: SET weighbridge.host, .port, .dbname, .login and .password';
    END IF;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'weighbridge_sql') THEN
        CREATE ROLE weighbridge_sql NOLOGIN;
    END IF;
    CREATE SCHEMA IF NOT EXISTS weighbridge_dblink;
    SELECT n.nspname INTO elsewhere FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
     WHERE e.extname = 'dblink';
    IF elsewhere IS NULL THEN
        CREATE EXTENSION dblink SCHEMA weighbridge_dblink;
    ELSIF elsewhere <> 'weighbridge_dblink' THEN
        RAISE EXCEPTION 'dblink is installed in the schema %, where others may use it', elsewhere
              USING HINT = 'Move it: ALTER EXTENSION dblink SET SCHEMA weighbridge_dblink;';
    END IF;
    REVOKE ALL ON SCHEMA weighbridge_dblink FROM PUBLIC;
    REVOKE ALL ON ALL FUNCTIONS IN SCHEMA weighbridge_dblink FROM PUBLIC;
    GRANT USAGE ON SCHEMA weighbridge_dblink TO weighbridge_sql;
    GRANT EXECUTE ON FUNCTION weighbridge_dblink.dblink(text, text) TO weighbridge_sql;

    IF NOT EXISTS (SELECT FROM pg_foreign_server WHERE srvname = 'weighbridge') THEN
        CREATE SERVER weighbridge FOREIGN DATA WRAPPER dblink_fdw;
    END IF;
    REVOKE ALL ON FOREIGN SERVER weighbridge FROM PUBLIC;
    GRANT USAGE ON FOREIGN SERVER weighbridge TO weighbridge_sql;
    known := ARRAY(SELECT option_name FROM pg_foreign_server, pg_options_to_table(srvoptions) WHERE srvname = 'weighbridge');
    FOR one IN SELECT * FROM (VALUES ('host', host), ('port', port), ('dbname', dbname), ('connect_timeout', '10'),
                                     ('application_name', 'weighbridge-ai-query')) AS wanted (name, value) LOOP
        IF one.value <> '' THEN
            EXECUTE format('ALTER SERVER weighbridge OPTIONS (%s %I %L)',
                           CASE WHEN one.name = ANY (known) THEN 'SET' ELSE 'ADD' END, one.name, one.value);
        ELSIF one.name = ANY (known) THEN
            EXECUTE format('ALTER SERVER weighbridge OPTIONS (DROP %I)', one.name);
        END IF;
    END LOOP;
    DROP USER MAPPING IF EXISTS FOR weighbridge_sql SERVER weighbridge;
    EXECUTE format('CREATE USER MAPPING FOR weighbridge_sql SERVER weighbridge OPTIONS (user %L, password %L)', login, password);
END $install$;

CREATE OR REPLACE FUNCTION weighbridge_dblink.raised(told jsonb) RETURNS void
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF told ? 'hint' THEN
        RAISE EXCEPTION USING ERRCODE = told->>'code', MESSAGE = told->>'message',
              DETAIL = coalesce(told->>'detail', ''), HINT = told->>'hint';
    ELSIF told ? 'detail' THEN
        RAISE EXCEPTION USING ERRCODE = told->>'code', MESSAGE = told->>'message', DETAIL = told->>'detail';
    END IF;
    RAISE EXCEPTION USING ERRCODE = told->>'code', MESSAGE = told->>'message';
END $$;

-- Asks all of `bodies`, `parallel` at a time, and gives what came of each as it comes; null for null. `failing`: the
-- first error ends it, and what still runs is cancelled.
CREATE OR REPLACE FUNCTION weighbridge_dblink.answers(
        caller text, kind text, endpoint text, bodies text[], parallel integer, failing boolean)
    RETURNS TABLE (n integer, told jsonb)
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    many constant integer := cardinality(bodies);
    begun integer := 0;
    waiting uuid[] := '{}';
    places jsonb := '{}';
    fresh jsonb;
    ended jsonb;
    ticket uuid;
BEGIN
    IF endpoint IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'the endpoint must not be null';
    ELSIF parallel IS NULL OR parallel NOT BETWEEN 1 AND 64 THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'parallel takes 1 to 64';
    END IF;
    LOOP
        fresh := '[]';
        WHILE begun < many AND cardinality(waiting) < parallel LOOP
            begun := begun + 1;
            IF bodies[begun] IS NULL THEN
                n := begun;
                told := '{"answer": null}';
                RETURN NEXT;
                CONTINUE;
            END IF;
            ticket := gen_random_uuid();
            waiting := waiting || ticket;
            places := places || jsonb_build_object(ticket, begun);
            fresh := fresh || jsonb_build_object(
                'ticket', ticket, 'caller', caller, 'kind', kind, 'endpoint', endpoint, 'body', bodies[begun]);
        END LOOP;
        EXIT WHEN waiting = '{}';
        -- A connection for this statement alone: what is submitted commits there at once, and the wait there sees the
        -- answer whatever the isolation here. Coming back is what says that somebody still waits.
        SELECT one.ended INTO ended FROM weighbridge_dblink.dblink('weighbridge', format(
            'CALL weighbridge_calls.exchange(%L::jsonb, %L::uuid[], NULL)', fresh, waiting)) AS one (ended jsonb);
        FOR told IN SELECT value FROM jsonb_array_elements(ended) LOOP
            ticket := told->>'ticket';
            n := places->>ticket::text;
            waiting := array_remove(waiting, ticket);
            places := places - ticket::text;
            IF failing AND told ? 'code' THEN
                PERFORM weighbridge_dblink.raised(told);
            END IF;
            RETURN NEXT;
        END LOOP;
    END LOOP;
EXCEPTION WHEN query_canceled OR assert_failure OR others THEN
    IF waiting <> '{}' THEN
        BEGIN
            PERFORM FROM weighbridge_dblink.dblink('weighbridge', format(
                'SELECT weighbridge_calls.cancel(%L::uuid[])', waiting)) AS one (cancelled text);
        EXCEPTION WHEN others THEN
            -- Unreachable: there they are given up after a second without a word from here.
            NULL;
        END;
    END IF;
    RAISE;
END $$;

-- What a return type of Databricks means here; asked before anything is paid for.
CREATE OR REPLACE FUNCTION weighbridge_dblink.type_of(returntype text) RETURNS text
    LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    wanted constant text := upper(btrim(coalesce(returntype, 'STRING')));
    found text := CASE wanted
        WHEN 'STRING' THEN 'text' WHEN 'TEXT' THEN 'text' WHEN 'BOOLEAN' THEN 'boolean' WHEN 'SMALLINT' THEN 'smallint'
        WHEN 'INT' THEN 'integer' WHEN 'INTEGER' THEN 'integer' WHEN 'BIGINT' THEN 'bigint' WHEN 'LONG' THEN 'bigint'
        WHEN 'FLOAT' THEN 'real' WHEN 'REAL' THEN 'real' WHEN 'DOUBLE' THEN 'double precision' WHEN 'DATE' THEN 'date'
        WHEN 'TIMESTAMP' THEN 'timestamptz' WHEN 'JSON' THEN 'jsonb' WHEN 'JSONB' THEN 'jsonb' WHEN 'VARIANT' THEN 'jsonb' END;
BEGIN
    IF found IS NULL THEN
        found := CASE
            WHEN wanted ~ '^(DECIMAL|NUMERIC)( *\( *[0-9]{1,2} *(, *[0-9]{1,2} *)?\))?$' THEN 'numeric' || coalesce(substring(wanted FROM '\(.*\)'), '')
            WHEN wanted ~ '^(STRUCT|MAP) *<.+>$' THEN 'object'
            WHEN wanted ~ '^ARRAY *<.+>$' THEN 'array' END;
    END IF;
    IF found IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
              MESSAGE = format('returntype %L is not a type that an answer can be read as', returntype),
              HINT = 'STRING, BOOLEAN, INT, BIGINT, FLOAT, DOUBLE, DECIMAL(p, s), DATE, TIMESTAMP, JSON, STRUCT<...>, MAP<...>, ARRAY<...>.';
    END IF;
    RETURN found;
END $$;

-- What came of a call as a value: the answer, checked against its type, or why there is none.
CREATE OR REPLACE FUNCTION weighbridge_dblink.outcome(told jsonb, kind text, failing boolean, OUT result text, OUT errormessage text)
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    errormessage := told->>'message';
    result := told->>'answer';
    IF result IS NULL OR kind = 'text' THEN
        RETURN;
    ELSIF kind IN ('object', 'array') THEN
        IF jsonb_typeof(result::jsonb) <> kind THEN
            RAISE EXCEPTION USING ERRCODE = 'invalid_text_representation', MESSAGE = format('the answer is no JSON %s', kind);
        END IF;
    ELSE
        EXECUTE format('SELECT %L::%s::text', btrim(result), kind) INTO result;
    END IF;
EXCEPTION WHEN data_exception THEN
    IF failing THEN
        RAISE;
    END IF;
    result := NULL;
    errormessage := SQLERRM;
END $$;

CREATE OR REPLACE FUNCTION weighbridge_dblink.body(request text, modelparameters jsonb, responseformat text) RETURNS text
    LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN request IS NOT NULL THEN jsonb_strip_nulls(jsonb_build_object(
        'request', request, 'modelparameters', modelparameters, 'responseformat', responseformat))::text END
$$;

-- Arguments are named as in Databricks SQL, in the small letters that PostgreSQL folds names to.
CREATE OR REPLACE FUNCTION public.ai_query(
        endpoint text, request text, returntype text DEFAULT 'STRING', failonerror boolean DEFAULT true,
        modelparameters jsonb DEFAULT NULL, responseformat text DEFAULT NULL)
    RETURNS text LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    -- Not session_user alone: a pooled login is nobody until it has set a role.
    caller constant text := coalesce(nullif(current_setting('role'), 'none'), session_user);
    kind constant text := weighbridge_dblink.type_of(returntype);
    failing constant boolean := failonerror IS NOT FALSE;
    one record;
BEGIN
    SELECT o.result, o.errormessage INTO one
      FROM weighbridge_dblink.answers(
               caller, 'query', endpoint, ARRAY[weighbridge_dblink.body(request, modelparameters, responseformat)], 1, failing) AS a,
           weighbridge_dblink.outcome(a.told, kind, failing) AS o;
    IF failing THEN
        RETURN one.result;
    END IF;
    RETURN json_build_object('result', one.result, 'errorMessage', one.errormessage);
END $$;

CREATE OR REPLACE FUNCTION public.ai_query_many(
        endpoint text, requests text[], returntype text DEFAULT 'STRING', failonerror boolean DEFAULT true,
        modelparameters jsonb DEFAULT NULL, responseformat text DEFAULT NULL, parallel integer DEFAULT 16)
    RETURNS TABLE (n integer, result text, errormessage text)
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    caller constant text := coalesce(nullif(current_setting('role'), 'none'), session_user);
    kind constant text := weighbridge_dblink.type_of(returntype);
    failing constant boolean := failonerror IS NOT FALSE;
BEGIN
    RETURN QUERY
    SELECT a.n, o.result, o.errormessage
      FROM weighbridge_dblink.answers(caller, 'query', endpoint,
               ARRAY(SELECT weighbridge_dblink.body(one, modelparameters, responseformat)
                       FROM unnest(requests) WITH ORDINALITY AS given (one, place) ORDER BY place), parallel, failing) AS a,
           weighbridge_dblink.outcome(a.told, kind, failing) AS o;
END $$;

CREATE OR REPLACE FUNCTION public.ai_embed(endpoint text, input text)
    RETURNS real[] LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    caller constant text := coalesce(nullif(current_setting('role'), 'none'), session_user);
    told jsonb;
BEGIN
    IF input IS NULL THEN
        RETURN NULL;
    END IF;
    SELECT a.told INTO told FROM weighbridge_dblink.answers(
        caller, 'embed', endpoint, ARRAY[weighbridge_dblink.body(input, NULL, NULL)], 1, true) AS a;
    RETURN ARRAY(SELECT value::real FROM jsonb_array_elements_text(told->'answer') WITH ORDINALITY AS each (value, place)
                  ORDER BY place);
END $$;

ALTER FUNCTION weighbridge_dblink.raised(jsonb) OWNER TO weighbridge_sql;
ALTER FUNCTION weighbridge_dblink.answers(text, text, text, text[], integer, boolean) OWNER TO weighbridge_sql;
ALTER FUNCTION weighbridge_dblink.type_of(text) OWNER TO weighbridge_sql;
ALTER FUNCTION weighbridge_dblink.outcome(jsonb, text, boolean) OWNER TO weighbridge_sql;
ALTER FUNCTION weighbridge_dblink.body(text, jsonb, text) OWNER TO weighbridge_sql;
ALTER FUNCTION public.ai_query(text, text, text, boolean, jsonb, text) OWNER TO weighbridge_sql;
ALTER FUNCTION public.ai_query_many(text, text[], text, boolean, jsonb, text, integer) OWNER TO weighbridge_sql;
ALTER FUNCTION public.ai_embed(text, text) OWNER TO weighbridge_sql;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA weighbridge_dblink FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO weighbridge_sql;
GRANT EXECUTE ON FUNCTION public.ai_query(text, text, text, boolean, jsonb, text) TO PUBLIC;
GRANT EXECUTE ON FUNCTION public.ai_query_many(text, text[], text, boolean, jsonb, text, integer) TO PUBLIC;
GRANT EXECUTE ON FUNCTION public.ai_embed(text, text) TO PUBLIC;
COMMENT ON SCHEMA weighbridge_dblink IS 'dblink, for ai_query() alone.';
COMMENT ON FUNCTION public.ai_query(text, text, text, boolean, jsonb, text) IS
    'Ask a model of the gateway, as the principal that the calling role stands for. With failonerror => false: a JSON object of result and errorMessage.';
COMMENT ON FUNCTION public.ai_query_many(text, text[], text, boolean, jsonb, text, integer) IS
    'Ask a model many times, `parallel` calls at once; n counts the requests from 1, rows come as answers come.';
COMMENT ON FUNCTION public.ai_embed(text, text) IS 'The embedding of a text by a model of the gateway.';
